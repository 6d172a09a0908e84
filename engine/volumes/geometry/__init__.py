"""Affines, grids and directions: where voxels lie, and whether two files agree on it."""
