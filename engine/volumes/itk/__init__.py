"""MetaImage and NRRD files in, by SimpleITK: an optional extra (`gem3d-engine[itk]`)."""

from engine.volumes.itk.read import read_image, read_labels, source_files

__all__ = ["read_image", "read_labels", "source_files"]
