"""Work on all voxels of a sampled volume, by NumPy or on the GPU."""
