"""Prepared cases to weights: stages autoencoder, slice and volume on Ray Train and DeepSpeed."""
