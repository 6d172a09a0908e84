"""Whose data a run holds: from a patient's name, or a case id, to the names that the run uses.

A run knows a patient by its `patient_pattern`, by the case behind `SITE--CASE`, and slice files by
their bytes: a file that is the image of a case of the data, or equal to another slice file, is that
patient's under any name. Knows no voxels and deletes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from engine.errors import RunError
from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import RunIdentity
from engine.runs.record.plan import PlanRow, iter_plan
from engine.runs.record.withdrawal import read_withdrawn
from engine.storage.places import Place
from engine.volumes.layouts.naming import split_name

COHORT = "cohort"
"""Folder of the demo's embedded data set in a run."""
_SITE_END = "--"
_SLICE = "slice "
_SHOWN = 20


@dataclass(frozen=True)
class Patient:
    """What a run holds of a patient.

    Attributes:
        name: as it was asked for.
        names: of the cases and slice files, as plan rows use them; sorted.
        others: further cases of the same patient, where a single case was asked for.
        rows: planned volumes that their masks or slices are part of.
    """

    name: str
    names: tuple[str, ...]
    others: tuple[str, ...]
    rows: tuple[PlanRow, ...]


def find_patient(folder: RunFolder, identity: RunIdentity, name: str) -> Patient:
    """Everything of a patient, or of one case.

    Args:
        folder: the run.
        identity: content of its run.yaml.
        name: of a patient, or a case id.

    Raises:
        RunError: the run has no such patient; names those that it has.
    """
    known, owners = _known(folder, identity)
    whose = patient_namer(identity)
    names = {known_name for known_name in known if whose(known_name) == name}
    others: set[str] = set()
    if not names and name in known:
        names = {name}
        others = {other for other in known if whose(other) == whose(name)}
    if not names:
        raise RunError(
            f"{name}: no volume of {folder.root} is planned with this patient or case; it has "
            f"{', '.join(sorted(known)[:_SHOWN])}"
        )
    return patient_of(folder, name, _with_same_bytes(names, owners), others)


def patient_of(
    folder: RunFolder, name: str, names: Collection[str], others: Collection[str] = ()
) -> Patient:
    """A patient whose names are known, with all planned volumes of theirs."""
    rows = tuple(row for row in iter_plan(folder.plan) if not row.names.isdisjoint(names))
    return Patient(name, tuple(sorted(names)), tuple(sorted(set(others).difference(names))), rows)


def slice_files(identity: RunIdentity) -> dict[str, str]:
    """The slice files of a run: file name -> sha256."""
    found = {k.removeprefix(_SLICE): v for k, v in identity.data.items() if k.startswith(_SLICE)}
    return dict(sorted(found.items()))


def slice_name(file_name: str) -> str:
    """What plan rows call a slice file."""
    parts = split_name(file_name)
    return file_name if parts is None else parts[0]


def _known(folder: RunFolder, identity: RunIdentity) -> tuple[set[str], list[Collection[str]]]:
    """Names in a run, and groups of those that have the same bytes."""
    known = {place.name.removesuffix(".zarr") for place in _prepared(folder)}
    known |= read_withdrawn(folder)  # the same call again finishes what was cut off
    by_file: dict[str, set[str]] = {}
    for file_name, digest in slice_files(identity).items():
        by_file.setdefault(digest, set()).add(slice_name(file_name))
    groups: dict[frozenset[str], None] = {frozenset(group): None for group in by_file.values()}
    for row in iter_plan(folder.plan):
        known |= row.names
        if row.informed_of:
            groups[frozenset((row.informed_case, row.informed_of))] = None
    return known.union(*by_file.values()), list(groups)


def _prepared(folder: RunFolder) -> Iterator[Place]:
    for place in (folder.root / COHORT / "prepared", folder.root / "informed"):
        if place.is_dir():
            yield from (p for p in place.iterdir() if p.name.endswith(".zarr") and p.name[0] != ".")


def _with_same_bytes(names: Collection[str], groups: Iterable[Collection[str]]) -> set[str]:
    found, groups = set(names), list(groups)
    while True:
        more = {name for group in groups if not found.isdisjoint(group) for name in group}
        if more <= found:
            return found
        found |= more


def patient_namer(identity: RunIdentity) -> Callable[[str], str]:
    """From a name in the plan to its patient; what fits no pattern is a patient of its own."""
    pattern = _compiled(identity.settings)
    sites = identity.job == "harmonize" and bool(identity.machine.get("sites"))

    def whose(name: str) -> str:
        if sites and _SITE_END in name:
            name = name.partition(_SITE_END)[2]
        found = pattern.search(name) if pattern else None
        return found.group(1) or name if found else name

    return whose


def _compiled(settings: Mapping[str, object]) -> re.Pattern[str] | None:
    pattern = settings.get("patient_pattern")
    try:
        compiled = re.compile(pattern) if isinstance(pattern, str) else None
    except re.error:
        return None
    return compiled if compiled and compiled.groups else None
