"""Faults that a run must survive, one family a module; `bench_faults.py` strikes them in turn."""
