"""Runs: a whole data set as one job, from plan to report, on a Ray cluster.

One job writes one run folder; what is in it and who may write what stands in `record/`.
"""
