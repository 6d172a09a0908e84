"""Evaluation: pure functions on arrays that say how good a generated volume is.

Knows no files, no models, no Ray; `engine/runs` and `engine/training` call it.
"""
