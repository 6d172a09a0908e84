"""Which volumes a run makes, from what, and whether they can be made.

Decided before any computing.
"""
