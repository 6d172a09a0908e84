"""What the model's grid loses of a mask: voxels and connected parts, class by class.

The model sees a mask on its own grid, which is coarser than most scans. A volume goes back to the
scan's grid, and so would that mask: what is not there any more was never asked of the model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.errors import VolumeError
from engine.volumes.labels.contour_class import contour_number
from engine.volumes.prepared.class_loss import ClassLoss, GridLoss, loss_notes
from engine.volumes.prepared.prepare import mask_to_native
from engine.volumes.volume import PreparedCase, spacing_of


def model_mask(case: PreparedCase) -> NDArray[np.uint8]:
    """The mask that the model sees, on the scan's grid."""
    return mask_to_native(case, case.mask).array


def grid_loss(case: PreparedCase, back: NDArray[np.uint8] | None = None) -> dict[str, ClassLoss]:
    """Compare a case's mask with what the model sees of it, all classes but the added contour.

    Args:
        case: with its mask on both grids.
        back: `model_mask` of it, where that is known.
    """
    back = model_mask(case) if back is None else back
    voxel_mm3 = float(np.prod(spacing_of(case.native.affine)))
    contour = contour_number(case.class_names, case.contour)
    boxes = ndimage.find_objects(case.native_mask, max_label=len(case.class_names))
    return {
        name: _loss(case.native_mask[box] == number, back[box] == number, voxel_mm3)
        for number, (name, box) in enumerate(zip(case.class_names, boxes, strict=True), start=1)
        if box is not None and number != contour
    }


def _loss(drawn: NDArray[np.bool_], back: NDArray[np.bool_], voxel_mm3: float) -> ClassLoss:
    kept = drawn & back
    parts, num_parts = ndimage.label(drawn)
    voxels = int(drawn.sum())
    return ClassLoss(
        voxels=voxels,
        kept_voxels=int(kept.sum()),
        volume_mm3=round(voxels * voxel_mm3, 3),
        parts=int(num_parts),
        lost_parts=int(num_parts) - len(np.unique(parts[kept])),
    )


def refuse_loss(case_id: str, loss: GridLoss, *, any_class: bool) -> None:
    """Refuse a case of whose drawn classes nothing reaches the model.

    Args:
        case_id: of the case.
        loss: of its mask.
        any_class: refuse when one class is gone, and not only when all are.

    Raises:
        VolumeError: names the classes.
    """
    gone = {name: one for name, one in loss.items() if one.is_gone}
    if gone and (any_class or len(gone) == len(loss)):
        raise VolumeError(
            f"{case_id}: {'; '.join(loss_notes(gone))}; prepare on a finer grid (spacing_mm_yx, "
            "spacing_mm_z), or "
            + ("set lost_classes: flag" if len(gone) < len(loss) else "leave the case out")
        )
