"""Weights of an earlier version are read, and sample what they sampled there."""

from pathlib import Path

import numpy as np

from engine.sampling.sampler import Sampler
from models.weights.folder import load_position
from models.weights.manifest import read_manifest, weights_sha256
from tests.sampling.tiny_model import FAST, request

OLD = Path(__file__).parent / "old_weights"
DIGEST = "65ee5fea4ed1c906a6824b6659ea0bd252d74a275916f26950de10df9607ed71"


def test_weights_of_version_0_1_0_keep_their_digest() -> None:
    """Runs are named by it: another digest would refuse to continue them."""
    assert weights_sha256(OLD / "0.1.0") == DIGEST


def test_weights_of_version_0_1_0_sample_the_same_volume() -> None:
    image = Sampler.load(OLD / "0.1.0", FAST, device="cpu").sample(request()).image
    expected = np.load(OLD / "volume_of_0.1.0.npz")["image"] / 32767
    assert np.ptp(expected) == 2.0
    np.testing.assert_allclose(image, expected, atol=2e-3)  # 1e-3 of the range


def test_the_position_model_of_version_0_1_0_is_read() -> None:
    model = load_position(OLD / "0.1.0", read_manifest(OLD / "0.1.0"))
    assert all(parameter.isfinite().all() for parameter in model.parameters())
