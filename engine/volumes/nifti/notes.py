"""What other readers take otherwise than this engine does; a note in the log, never a refusal.

This engine and nibabel take the sform. ITK (SimpleITK, so nnU-Net and TotalSegmentator) takes its
spacing from pixdim and knows no shear.
"""

from __future__ import annotations

import nibabel as nib
import numpy as np

from engine.volumes.geometry.same_grid import GRID_TOLERANCE, shift_mm
from engine.volumes.nifti.orientation import shear_deg
from engine.volumes.nifti.write import SHEAR_DEG
from engine.volumes.volume import Volume


def header_notes(volume: Volume) -> tuple[str, ...]:
    """Warnings about a volume's grid; empty is nothing.

    Args:
        volume: with the header that its file had (see `Volume.header`).
    """
    notes = []
    degrees = shear_deg(volume.affine)
    if degrees > SHEAR_DEG:
        notes.append(
            f"sheared grid (its axes meet at {90 - degrees:.6g} degrees): read and exported "
            "exactly by its sform, but ITK and nnU-Net know no shear and take the nearest "
            "orthogonal grid of the qform; regrid the case onto an orthogonal grid if they matter"
        )
    header = nib.Nifti1Header(binaryblock=volume.header or None, check=False)
    if notes or header["sform_code"] <= 0:
        return tuple(notes)
    tolerance_mm = GRID_TOLERANCE * min(volume.spacing_mm_zyx)
    pixdim = np.array(header["pixdim"][1:4], dtype=np.float64)
    edges = np.linalg.norm(volume.affine[:3, :3], axis=0)
    if np.abs(pixdim - edges).max() > 0.05 * edges.min():
        notes.append(
            f"pixdim {_mm(pixdim)} contradict the sform's voxel edges {_mm(edges)}: read by the "
            "sform, as nibabel does, but ITK and nnU-Net take pixdim; correct pixdim in the file"
        )
    elif header["qform_code"] > 0:
        away_mm = shift_mm(volume, np.asarray(header.get_qform(), dtype=np.float64))
        if away_mm > max(tolerance_mm, 0.1):
            notes.append(
                f"sform and qform disagree by up to {away_mm:.3g} mm: read by the sform, as "
                "nibabel and ITK do; other tools may take the qform: make both the same"
            )
    return tuple(notes)


def _mm(edges: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    return " x ".join(f"{e:.3g}" for e in edges) + " mm"
