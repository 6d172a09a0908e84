"""Diversity and calibration: what several volumes of one mask say that one cannot."""
