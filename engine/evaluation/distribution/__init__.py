"""Distribution: are generated volumes, as a population, like real ones?

On features that somebody else extracts (`engine/runs/evaluating`); here is only the arithmetic.
"""
