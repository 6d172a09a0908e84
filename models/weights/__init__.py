"""Weights folders: files of tensors, their manifest, and weights that come from elsewhere."""
