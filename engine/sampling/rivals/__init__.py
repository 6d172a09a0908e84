"""Rivals: the cheapest things that could have made a volume, as samplers; and a ceiling.

Every table of quality has rows of these. They learn nothing, load no weights and know no torch, no
files and no Ray: who uses them hands in the training cases (`sampler.py`).
"""
