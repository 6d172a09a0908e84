"""A mask drawn by hand -> the whole mask of a case, in class numbers, on the case's own grid.

A drawing tool's label 1 is whatever its user meant. A drawing of one structure comes with the name
of its class and is laid over the case's own mask; anything else must be a whole mask, in the data
set's raw labels or in class numbers. A part of a mask that would make organs vanish is refused.
Knows no job.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.errors import ConfigError, VolumeError
from engine.log import get_logger
from engine.volumes.labels.classes import classes_of, count_labels
from engine.volumes.labels.contour_class import contour_number, is_organ
from engine.volumes.labels.structures import structure
from engine.volumes.labels.tables.vocabulary import INSIDE
from engine.volumes.prepare_config import PrepareConfig
from engine.volumes.volume import PreparedCase, Volume

log = get_logger(__name__)

Numbering = Literal["raw", "classes"]

_MIN_COVERED = 0.5  # of the case's organs: less is a part of a mask, where a class vanishes
_MIN_ORGAN = 0.1  # of an organ's own voxels: less is something drawn with the organ's label
_AGREES, _DISAGREES = 0.9, 0.5  # of drawn voxels with the case's own class


@dataclass(frozen=True)
class Drawing:
    """How a drawn mask is meant.

    Attributes:
        class_name: what all drawn voxels are; None for a whole mask.
        numbering: of a whole mask: the data set's "raw" labels, or "classes" as in an export.
        whole: a whole mask even though classes of the case are not in it.
        edited: classes that the edit is about; they may shrink or vanish.
    """

    class_name: str | None = None
    numbering: Numbering = "raw"
    whole: bool = False
    edited: tuple[str, ...] = ()


def drawn_mask(
    case: PreparedCase, drawn: Volume, config: PrepareConfig, drawing: Drawing
) -> NDArray[np.uint8]:
    """The case's whole mask with the drawing in it.

    Args:
        case: whose mask is edited.
        drawn: labels on the case's own grid.
        config: how the case was prepared; has the label map.
        drawing: how it is meant.

    Returns:
        uint8 `z y x` class numbers on the case's own grid, inside its contour.

    Raises:
        VolumeError: empty, of unknown labels, or a part of a mask; says what would vanish.
        ConfigError: `class_name` is not a class of the data.
    """
    if drawing.class_name is not None:
        return _over(case, drawn, drawing.class_name)
    classes = _whole(case, drawn, config, drawing.numbering)
    _refuse_other_numbering(case, drawn, config, drawing, classes)
    _refuse_part(case, drawn, config, drawing, classes)
    contour = contour_number(case.class_names, case.contour)
    if contour is not None:
        classes = np.where((classes == 0) & (case.native_mask > 0), np.uint8(contour), classes)
    return classes


def _over(case: PreparedCase, drawn: Volume, class_name: str) -> NDArray[np.uint8]:
    """One class, drawn over the case's own mask."""
    if class_name not in case.class_names:
        raise ConfigError(
            f"drawn_class: {class_name!r} is not in the data; it has {', '.join(case.class_names)}"
        )
    values = [value for value in count_labels(drawn.array) if value]
    if not values:
        raise VolumeError(f"{drawn.source}: empty mask, nothing is drawn; draw on {case.case_id}")
    if len(values) > 1:
        raise VolumeError(
            f"{drawn.source}: holds the labels {values[:10]}, and --drawn-class is for one; give a "
            "mask of that structure alone, or a whole mask without --drawn-class"
        )
    inside = drawn.array > 0
    outside = int((inside & (case.native_mask == 0)).sum())
    if case.contour is not None and outside == int(inside.sum()):
        raise VolumeError(
            f"{drawn.source}: all that is drawn lies outside the {case.contour} of {case.case_id}; "
            "draw it inside"
        )
    if case.contour is not None and outside:
        log.warning("%s: %d drawn voxels lie outside the %s", drawn.source, outside, case.contour)
    number = np.uint8(case.class_names.index(class_name) + 1)
    return np.where(inside, number, case.native_mask).astype(np.uint8)


def _whole(
    case: PreparedCase, drawn: Volume, config: PrepareConfig, numbering: Numbering
) -> NDArray[np.uint8]:
    """A whole mask's labels as class numbers."""
    if numbering == "raw":
        try:
            return classes_of(drawn, config)
        except VolumeError as error:
            raise VolumeError(f"{error} (or say what is drawn with --drawn-class NAME)") from None
    values = list(count_labels(drawn.array))
    if values[-1] > len(case.class_names) or values == [0]:
        raise VolumeError(
            f"{drawn.source}: holds {values[-10:]}, not class numbers 1 to {len(case.class_names)} "
            f"({', '.join(case.class_names)}); draw it anew, or give raw labels"
        )
    return drawn.array.astype(np.uint8)


def _refuse_other_numbering(
    case: PreparedCase,
    drawn: Volume,
    config: PrepareConfig,
    drawing: Drawing,
    classes: NDArray[np.uint8],
) -> None:
    """An export's class numbers given as raw labels, or the other way round."""
    other: Numbering = "classes" if drawing.numbering == "raw" else "raw"
    try:
        read_otherwise = _whole(case, drawn, config, other)
    except VolumeError:
        return
    if _agreement(case, classes) < _DISAGREES and _agreement(case, read_otherwise) > _AGREES:
        raise VolumeError(
            f"{drawn.source}: read as {_called(drawing.numbering)} it is not the anatomy of "
            f"{case.case_id}, read as {_called(other)} it is; give --drawn-labels {other}"
        )


def _called(numbering: Numbering) -> str:
    return "the data set's raw labels" if numbering == "raw" else "class numbers"


def _agreement(case: PreparedCase, classes: NDArray[np.uint8]) -> float:
    """Share of the case's organs that a mask has where they are."""
    organs = is_organ(case.native_mask, case.class_names, case.contour)
    return float((classes == case.native_mask)[organs].mean()) if organs.any() else 0.0


def _refuse_part(
    case: PreparedCase,
    drawn: Volume,
    config: PrepareConfig,
    drawing: Drawing,
    classes: NDArray[np.uint8],
) -> None:
    """A drawing of one structure, given as if it were all there is."""
    before, after = count_labels(case.native_mask), count_labels(classes)
    numbered = [
        (number, name)
        for number, name in enumerate(case.class_names, start=1)
        if name != case.contour and name not in drawing.edited and before.get(number)
    ]
    gone = [name for number, name in numbered if not after.get(number)]
    shrunk = [
        name
        for number, name in numbered
        if 0 < after.get(number, 0) < _MIN_ORGAN * before[number] and _is_organ_name(name)
    ]
    organs = is_organ(case.native_mask, case.class_names, case.contour)
    drawn_organs = is_organ(classes, case.class_names, case.contour)
    covered = float(drawn_organs[organs].mean()) if organs.any() else 1.0
    if drawing.whole or not (shrunk or (gone and covered < _MIN_COVERED)):
        if gone:
            log.warning("%s: %s of %s vanish", drawn.source, ", ".join(gone), case.case_id)
        return
    would = [f"{', '.join(gone)} of {case.case_id} would vanish"] if gone else []
    would += [f"{', '.join(shrunk)} would shrink to less than a tenth"] if shrunk else []
    raise VolumeError(
        f"{drawn.source}: a part of a mask: {' and '.join(would)} (its "
        f"{drawn_meaning(case, drawn, config, drawing)}); --drawn-class NAME draws it as that "
        "class over the case's own mask, --drawn-whole takes it as all there is"
    )


def _is_organ_name(name: str) -> bool:
    """A structure that is there in every patient, unlike a lesion."""
    known = structure(name)
    return known.known and not known.lesion and known.name not in INSIDE


def drawn_meaning(
    case: PreparedCase, drawn: Volume, config: PrepareConfig, drawing: Drawing
) -> str:
    """What the drawn labels are taken for, as a sentence for the log."""
    if drawing.class_name is not None:
        return f"all that is drawn is {drawing.class_name}, over the mask of {case.case_id}"
    numbering = drawing.numbering
    found = []
    for value in [v for v in count_labels(drawn.array) if v][:8]:
        number = config.label_map.get(value, 0) if numbering == "raw" else value
        found.append(f"{value} is {case.class_names[number - 1] if number else 'no class'}")
    kind = "raw label" if numbering == "raw" else "class number"
    return f"{kind} {', '.join(found)}"
