"""Rows through a pool of workers.

The one wiring of Ray Data, and what happens to rows whose worker dies or stalls.
"""

from engine.parallel.computer.environment import set_local_defaults

set_local_defaults()  # before any module of this room imports Ray
