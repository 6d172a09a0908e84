"""Fidelity: how close a generated volume comes to the real one with the same mask."""

from engine.evaluation.fidelity.means import class_means, mean_errors
from engine.evaluation.fidelity.ssim import MIN_SIZE_PX, ms_ssim

__all__ = ["MIN_SIZE_PX", "class_means", "mean_errors", "ms_ssim"]
