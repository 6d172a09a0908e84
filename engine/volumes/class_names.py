"""What a class may be called: names end up in file formats where some mean something else."""

from __future__ import annotations

from collections.abc import Sequence

_TAKEN = {"background", "ignore"}  # nnU-Net: label 0, and voxels that nobody annotated
_MAX_LENGTH = 100


def name_faults(names: Sequence[str]) -> str:
    """What is wrong with the names of classes; empty is nothing.

    >>> name_faults(("liver", "body"))
    ''
    >>> name_faults(("liver", "Background"))
    "'Background' means something else to nnU-Net"
    """
    seen: set[str] = set()
    for name in names:
        key = name.casefold()
        if not name.strip() or name != name.strip() or not name.isprintable():
            return f"{name!r} is empty, has blanks around it, or characters that cannot be seen"
        if len(name) > _MAX_LENGTH:
            return f"{name[:40]!r}... is longer than {_MAX_LENGTH} characters"
        if key in _TAKEN:
            return f"{name!r} means something else to nnU-Net"
        if key in seen:
            return f"{name!r} is there twice (small and capital letters count as equal)"
        seen.add(key)
    return ""
