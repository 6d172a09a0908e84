"""Noise to volume: schedules, solvers, windows, propagation, and the sampler with the model."""
