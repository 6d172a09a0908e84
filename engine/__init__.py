"""GEM-3D engine: masks and informed slices in, whole verified 3D volumes out."""

__version__ = "0.1.0"
