"""Noise schedules, timesteps, and the noise of each slice: which noise levels are visited."""
