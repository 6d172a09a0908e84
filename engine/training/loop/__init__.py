"""One training from start to end: Ray Train, workers, steps, checkpoints."""

from engine.parallel.computer.environment import set_local_defaults

set_local_defaults()  # before any module of this room imports Ray
