"""What a data set calls its labels: by its `dataset.json`, or by file names that are its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from engine.volumes.labels.declared import DeclaredLabels, declared_labels
from engine.volumes.labels.structure_files import declared_structures
from engine.volumes.labels.tables.public import TABLES
from engine.volumes.layouts.cases import CaseFiles
from engine.volumes.layouts.description import DESCRIPTION, read_description


def labels_of(cases: Sequence[CaseFiles], root: Path | None = None) -> DeclaredLabels:
    """What a data set calls its labels; by its file names where it does not describe itself.

    Args:
        cases: of the data set, one at least.
        root: its folder, where that is known.

    Raises:
        LayoutError: see `declared_in_files`.
    """
    declared = declared_in_files(cases[0].mask, root)
    if declared.names or declared.ignore is not None:
        return declared
    names = [f"{case.case_id}/{case.mask.name}" for case in cases]
    for table in TABLES:
        if table.files and all(re.fullmatch(table.files, name) for name in names):
            where = f"{table.title}, whose file names these are ({cases[0].case_id}),"
            return DeclaredLabels(where, table.names)
    return declared


def declared_in_files(mask: Path, root: Path | None = None) -> DeclaredLabels:
    """What a data set calls its labels; nothing where it does not describe itself.

    Args:
        mask: one of its masks; the file may lie in its folder, or in the one around that. A folder
            of structures says itself what they are.
        root: the data set's folder, where that is known; looked at first.

    Raises:
        LayoutError: the file is damaged, or contradicts itself.
    """
    if mask.is_dir():
        return declared_structures(mask)
    around = [folder for folder in (root, mask.parent.parent, mask.parent) if folder is not None]
    for path in dict.fromkeys(folder / DESCRIPTION for folder in around):
        if path.is_file():
            return declared_labels(read_description(path), str(path))
    return DeclaredLabels("the data set")
