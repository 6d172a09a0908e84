"""Denoiser and autoencoder laid out for a GPU: working precision, channels-last, fused layers.

    lay_out(denoiser, dtype, device); lay_out_autoencoder(autoencoder, dtype, device)

Weights are cast once and no autocast is needed afterwards. Statistics of norms, softmax, sums over
embeddings and what enters and leaves the networks are float32. Forwards neither wait for the device
nor look at values, so that they can be captured in a CUDA graph after one warm-up call.
"""

from models.cuda_layout.forms import PLAIN_FORMS, FastForms
from models.cuda_layout.lay_out import lay_out, lay_out_autoencoder
from models.cuda_layout.probe import best_forms

__all__ = ["PLAIN_FORMS", "FastForms", "best_forms", "lay_out", "lay_out_autoencoder"]
