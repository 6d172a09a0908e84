"""The class that preparing added around all others: `body`, `brain`, or none.

It is what the settings added, and never what is called so: a data set may have a class `body` of
its own. Prepared cases and volumes say it in their attribute `contour`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import StoreError

CONTOURS = ("body", "brain")


def stored_contour(attributes: Mapping[str, Any]) -> str | None:
    """The contour's name from stored attributes.

    What was written before the attribute existed is read as it was meant then: the contour was
    always the last class, and bore its name.

    Args:
        attributes: of a prepared case or a finished volume, with `class_names`.

    Raises:
        StoreError: it names a class that is not there.
    """
    names = list(attributes["class_names"])
    if "contour" not in attributes:
        return names[-1] if names and names[-1] in CONTOURS else None
    contour = attributes["contour"]
    if contour is None:
        return None
    if not isinstance(contour, str) or contour not in names:
        raise StoreError(
            f"the attribute `contour` is {contour!r}, no class of {', '.join(names)}; make it anew"
        )
    return contour


def contour_number(class_names: Sequence[str], contour: str | None) -> int | None:
    """Class number of the contour, or None.

    >>> contour_number(("body", "liver"), None) is None
    True
    >>> contour_number(("liver", "body"), "body")
    2
    """
    return None if contour is None else list(class_names).index(contour) + 1


def organ_names(class_names: Sequence[str], contour: str | None) -> tuple[str, ...]:
    """Names of the classes that the data set itself has."""
    return tuple(name for name in class_names if name != contour)


def is_organ(
    mask: NDArray[np.uint8], class_names: Sequence[str], contour: str | None
) -> NDArray[np.bool_]:
    """Voxels of the data set's own classes, in the mask's shape."""
    number = contour_number(class_names, contour)
    organs = mask > 0
    return organs if number is None else organs & (mask != number)
