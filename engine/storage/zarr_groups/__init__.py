"""Zarr groups at places, within limits."""
