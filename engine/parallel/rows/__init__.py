"""Rows through a pool of workers.

The one wiring of Ray Data, and what happens to rows whose worker dies or stalls.
"""
