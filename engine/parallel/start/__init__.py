"""Ray for the time of one job: its own or a cluster that is up, reached in seconds or refused."""

from engine.parallel.computer.environment import set_local_defaults

set_local_defaults()  # before any module of this room imports Ray
