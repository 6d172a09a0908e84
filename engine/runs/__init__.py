"""Runs: a whole data set as one job, from plan to report, on a Ray cluster.

One job writes one run folder; what is in it and who may write what stands in `record/`.
"""

from engine.parallel.computer.environment import set_local_defaults

set_local_defaults()  # before any module of this room imports Ray
