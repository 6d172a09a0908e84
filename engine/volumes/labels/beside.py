"""Finds and reads the `dataset.json` that says what a data set's labels are called."""

from __future__ import annotations

from pathlib import Path

from engine.volumes.labels.declared import DeclaredLabels, declared_labels
from engine.volumes.layouts.description import DESCRIPTION, read_description


def labels_beside(mask: Path, root: Path | None = None) -> DeclaredLabels:
    """What a data set calls its labels; nothing where it does not describe itself.

    Args:
        mask: one of its masks; the file may lie in its folder, or in the one around that.
        root: the data set's folder, where that is known; looked at first.

    Raises:
        LayoutError: the file is damaged, or contradicts itself.
    """
    around = [folder for folder in (root, mask.parent.parent, mask.parent) if folder is not None]
    for path in dict.fromkeys(folder / DESCRIPTION for folder in around):
        if path.is_file():
            return declared_labels(read_description(path), str(path))
    return DeclaredLabels("the data set")
