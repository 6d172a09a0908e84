"""Runs: a whole data set as one job, from plan to report, on a Ray cluster.

One job writes one run folder; what is in it and who may write what stands in `folder.py` and
`ledger.py`. Only this room and `engine/training` know Ray.
"""

from engine.runs.environment import set_local_defaults

set_local_defaults()  # before any module of this room imports Ray
