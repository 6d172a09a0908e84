"""One training from start to end: Ray Train, workers, steps, checkpoints."""
