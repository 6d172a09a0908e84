"""sform and qform of a NIfTI header: which holds, what is mended, what cannot be an orientation.

The sform is taken where its code says so, else the qform, as nibabel does. What ITK reads without
ambiguity is read: an unset qfac, a quaternion a rounding error too long, an empty sform beside a
sound qform. Knows no file but for messages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.volumes.geometry.affines import check_affine

_ROUNDING = 1e-3  # a unit quaternion's length, squared, may be so much over 1
_QUATERNION = ("quatern_b", "quatern_c", "quatern_d")
_OFFSET = ("qoffset_x", "qoffset_y", "qoffset_z")
_ROWS = ("srow_x", "srow_y", "srow_z")


def repaired(raw: Any) -> Any:
    """A copy of a header in which what every reader takes the same way is written as meant.

    - pixdim[0] (qfac) is -1 or 1: everything that is not negative counts as 1;
    - negative pixdim of a grid that the qform alone places count as their size, as in nibabel;
    - a quaternion slightly longer than 1 is shortened to 1;
    - an sform of zeros, or not finite, beside a qform that is sound, does not count;
    - a qform that cannot be, beside an sform that holds, is made from the sform.
    """
    raw = raw.copy()
    if raw["sform_code"] > 0 and raw["qform_code"] > 0 and not _is_filled(raw):
        raw["sform_code"] = 0
    if raw["qform_code"] <= 0:
        for key in (*_QUATERNION, *_OFFSET):  # not used, and never to become NaN in an export
            raw[key] = np.nan_to_num(raw[key], nan=0.0, posinf=0.0, neginf=0.0)
        return raw
    qfac = float(raw["pixdim"][0])
    if qfac not in (-1.0, 1.0):
        raw["pixdim"][0] = -1.0 if qfac < 0 else 1.0
    if raw["sform_code"] <= 0:
        raw["pixdim"][1:4] = np.abs(raw["pixdim"][1:4])
    quaternion = np.array([float(raw[key]) for key in _QUATERNION])
    square = float(quaternion @ quaternion)
    if 1.0 < square <= 1.0 + _ROUNDING:
        for key, value in zip(_QUATERNION, quaternion / np.sqrt(square), strict=True):
            raw[key] = value
    if raw["sform_code"] > 0 and _qform(raw) is None:
        _qform_from_sform(raw)
    return raw


def read_affine(path: Path, raw: Any) -> NDArray[np.float64]:
    """The affine of a repaired header: voxel index (x, y, z, 1) -> RAS+ mm.

    Raises:
        VolumeError: none is set, or the one that holds cannot be.
    """
    if raw["sform_code"] <= 0 and raw["qform_code"] <= 0:
        raise VolumeError(
            f"{path}: no orientation (sform and qform codes are 0), left and right are unknown; "
            "set the sform from the original scan"
        )
    units = int(raw["xyzt_units"]) & 7
    if units not in (0, 2):
        raise VolumeError(
            f"{path}: space is not measured in mm (xyzt_units {units}); rescale to mm"
        )
    try:
        affine = np.asarray(raw.get_best_affine(), dtype=np.float64)
    except (ValueError, HeaderDataError) as error:
        raise VolumeError(f"{path}: invalid qform ({error}); set a valid sform or qform") from None
    check_affine(path, affine, "set a valid sform or qform")
    return affine


def shear_deg(affine: NDArray[np.float64]) -> float:
    """How far the angle between two of a grid's axes is from a right one, at most, in degrees."""
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = np.abs(unit.T @ unit - np.eye(3))
    return float(np.degrees(np.arcsin(min(1.0, float(cosines.max())))))


def _is_filled(raw: Any) -> bool:
    rows = np.array([raw[key] for key in _ROWS], dtype=np.float64)
    return bool(np.isfinite(rows).all() and rows[:, :3].any())


def _qform(raw: Any) -> NDArray[np.float64] | None:
    """The qform's affine, or None where it is none."""
    try:
        affine = np.asarray(raw.get_qform(), dtype=np.float64)
    except (ValueError, HeaderDataError):
        # negative pixdim beside an sform: the quaternion may be sound
        plain = raw.copy()
        plain["pixdim"][1:4] = np.abs(plain["pixdim"][1:4])
        try:
            affine = np.asarray(plain.get_qform(), dtype=np.float64)
        except (ValueError, HeaderDataError):
            return None
    return affine if np.isfinite(affine).all() else None


def _qform_from_sform(raw: Any) -> None:
    """The nearest qform to the sform; pixdim stays, ITK takes the spacing from it."""
    sform = np.array([*(raw[key] for key in _ROWS), [0, 0, 0, 1]], dtype=np.float64)
    edges = np.linalg.norm(sform[:3, :3], axis=0)
    if not np.isfinite(sform).all() or edges.min() <= 0:
        return  # refused by `read_affine`
    pixdim = raw["pixdim"].copy()
    try:
        raw.set_qform(sform, code=int(raw["qform_code"]), strip_shears=True)
    except (ValueError, HeaderDataError, np.linalg.LinAlgError):
        return
    raw["pixdim"][1:] = pixdim[1:]
