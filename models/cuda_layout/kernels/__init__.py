"""Triton kernels: imported only where Triton is installed, and untyped as its language is."""
