"""Noise to volume: schedules, solvers, windows, propagation and the sampler that holds the model."""
