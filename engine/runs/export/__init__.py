"""Committed volumes to NIfTI and nnU-Net raw data sets."""
