"""The types that travel along the data path: Volume -> PreparedCase.

Arrays are `z y x`; affines keep NIfTI's meaning (voxel index x, y, z -> RAS+ millimetres). Knows
no file format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Volume:
    """One image or one mask on its grid.

    Attributes:
        array: `z y x`; float32 intensities, or an integer type for labels.
        affine: 4x4 float64, voxel index (x, y, z, 1) -> RAS+ mm.
        source: file (or phantom) it came from, for messages.
        header: fresh 348-byte NIfTI-1 header (grid and orientation codes of the file, no free
            text); empty for a volume that was never a file.
    """

    array: Array
    affine: NDArray[np.float64]
    source: str
    header: bytes = b""

    @property
    def size_zyx(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        z, y, x = self.array.shape
        return (int(z), int(y), int(x))

    @property
    def spacing_mm_zyx(self) -> tuple[float, float, float]:
        """Voxel edges in mm along z, y, x."""
        return spacing_of(self.affine)


@dataclass(frozen=True)
class IntensityWindow:
    """Linear map between source intensities and the model's [-1, 1].

    Attributes:
        low: source intensity that becomes -1 (everything below is clipped to it).
        high: source intensity that becomes +1.
        unit: "HU" for CT, "a.u." for MR.
        background: source intensity written outside the prepared crop on the way back.
        masked: whether the source holds nothing but `background` outside all classes (a
            skull-stripped brain); then so does what goes back.
    """

    low: float
    high: float
    unit: Literal["HU", "a.u."]
    background: float
    masked: bool = False

    def to_model(self, array: Array) -> NDArray[np.float32]:
        """Source intensities -> float32 in [-1, 1], clipped."""
        scaled = (np.asarray(array, dtype=np.float64) - self.low) / (self.high - self.low)
        return (np.clip(scaled, 0.0, 1.0) * 2.0 - 1.0).astype(np.float32)

    def to_source(self, array: Array) -> NDArray[np.float32]:
        """[-1, 1] -> source intensities, float32 (clipped to [low, high]).

        HU are rounded to a thousandth: whole HU come back whole, float32 on the way or not.
        """
        unit = (np.clip(np.asarray(array, dtype=np.float64), -1.0, 1.0) + 1.0) / 2.0
        source = unit * (self.high - self.low) + self.low
        return (np.round(source, 3) if self.unit == "HU" else source).astype(np.float32)

    def description(self) -> dict[str, Any]:
        """What a volume's attributes say of it, JSON values: what clipping did to its voxels."""
        return {
            "low": self.low,
            "high": self.high,
            "unit": self.unit,
            "note": clipping_note(self.low, self.high, self.unit),
        }


def clipping_note(low: float, high: float, unit: str) -> str:
    """What a reader of a volume must know of its intensities.

    >>> clipping_note(0, 90, "a.u.")
    'intensities are clipped to 0 to 90 a.u.: what is darker or brighter reads as the bound'
    """
    text = f"intensities are clipped to {low:g} to {high:g} {unit}"
    if unit != "HU":
        return f"{text}: what is darker or brighter reads as the bound"
    return f"{text}: air, lung and gas read {low:g}, dense bone and metal {high:g}"


@dataclass(frozen=True)
class NativeGrid:
    """The mask's own grid, to which every generated volume goes back.

    Attributes:
        affine: 4x4 float64, as read.
        size_zyx: voxels of the file.
        header: fresh 348-byte NIfTI-1 header of that grid, without free text.
    """

    affine: NDArray[np.float64]
    size_zyx: tuple[int, int, int]
    header: bytes


@dataclass(frozen=True)
class PreparedCase:
    """A case on the model's grid.

    Attributes:
        case_id: allow-listed name (letters, digits, `_`, `-`, `.`).
        image: `z y x` float32 in [-1, 1], or None for a mask without an image.
        mask: `z y x` uint8, one class a voxel, 0 is background.
        affine: of the prepared grid (RAS+ axes).
        native: the grid to go back to.
        native_mask: `z y x` uint8, the classes on the native grid.
        intensity: how [-1, 1] becomes source intensities.
        num_classes: number of classes, background not counted.
        class_names: names of classes 1..num_classes.
        contour: name of the class that preparing added around all others, or None. A class of the
            data set's own is never it, whatever its name.
        notes: what is odd about the case and was taken all the same; not stored with it.
    """

    case_id: str
    image: NDArray[np.float32] | None
    mask: NDArray[np.uint8]
    affine: NDArray[np.float64]
    native: NativeGrid
    native_mask: NDArray[np.uint8]
    intensity: IntensityWindow
    num_classes: int
    class_names: tuple[str, ...]
    contour: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def size_zyx(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        z, y, x = self.mask.shape
        return (int(z), int(y), int(x))

    @property
    def spacing_mm_zyx(self) -> tuple[float, float, float]:
        """Voxel edges of the prepared grid in mm along z, y, x."""
        return spacing_of(self.affine)


def spacing_of(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Voxel edges of a grid in mm along z, y, x, from its affine (voxel x y z -> mm)."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return (float(z), float(y), float(x))
