"""NIfTI files in and out: first and last step of the data path, and nibabel's only importer.

Knows nothing of cases, classes or models.
"""

from engine.volumes.geometry.same_grid import check_same_grid
from engine.volumes.nifti.notes import header_notes
from engine.volumes.nifti.read import read_image, read_labels
from engine.volumes.nifti.write import fresh_header, remove_parts, write_nifti
from engine.volumes.read_limits import ReadLimits

__all__ = [
    "ReadLimits",
    "check_same_grid",
    "fresh_header",
    "header_notes",
    "read_image",
    "read_labels",
    "remove_parts",
    "write_nifti",
]
