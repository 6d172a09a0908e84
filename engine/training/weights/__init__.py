"""Weights folders: export of a stage, import of foreign weights, the model card."""
