"""What is left of a withdrawn patient and is not the run's to delete: named, never touched.

Knows what a run records of its inputs, and how names of files look. Deletes nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import RunIdentity
from engine.runs.record.patients import COHORT, Patient, slice_files, slice_name
from engine.runs.record.plan import iter_plan
from engine.storage.backends.find import storage_at

_IN_RUN = "run:"
_SHOWN = 20


def outside_run(folder: RunFolder, identity: RunIdentity, patient: Patient) -> list[str]:
    """One line for each thing of a patient that a withdrawal leaves, and what to do about it."""
    return [
        *_inputs(identity, patient),
        *_models(identity),
        *_store(folder),
        *_strange_files(folder, patient),
    ]


def kept_names(folder: RunFolder) -> str:
    """Which of the run's own files go on naming the patient, and why."""
    named = [folder.plan.name, folder.identity.name, folder.withdrawn.name]
    if (folder.root / COHORT).is_dir():
        named.append(f"{COHORT}/prepared/dataset.json")
    claims = "" if storage_at(folder.root).can_rename else " (and empty objects in commits/)"
    return (
        f"{', '.join(named)}{claims} keep the names of their cases and files, and digests, so that "
        "no rerun makes these volumes again"
    )


def _inputs(identity: RunIdentity, patient: Patient) -> Iterator[str]:
    """What the run was made from."""
    places = {row.mask_source for row in patient.rows if row.case_id in patient.names}
    places |= {row.informed_source for row in patient.rows if row.informed_case in patient.names}
    cases = sorted(place for place in places if place and not place.startswith(_IN_RUN))
    data = identity.machine.get("data", "")
    if cases:
        shown = ", ".join(cases[:_SHOWN]) + (", ..." if len(cases) > _SHOWN else "")
        yield f"prepared cases in {data}: {shown}, and the files that they were prepared from"
    files = [name for name in slice_files(identity) if slice_name(name) in patient.names]
    if files:
        yield f"slice files: {', '.join(files)}"
    drawn = identity.machine.get("drawn")
    if drawn and any(row.drawn_mask for row in patient.rows):
        yield f"drawn mask: {drawn}"


def _models(identity: RunIdentity) -> Iterator[str]:
    weights = identity.machine.get("weights", "")
    yield (
        f"weights {weights} (sha256 {identity.weights_sha256[:12]}...): a run does not know on "
        "whom they were trained; if on this patient, train anew without, and delete that "
        "training's work folder (latents/ and pixels/ hold every case)"
    )


def _store(folder: RunFolder) -> Iterator[str]:
    versions = storage_at(folder.root).keeps_versions()
    if versions:
        yield (
            f"{folder.root}: this bucket keeps older versions, also of what was deleted; delete "
            "those below this address, too (aws s3api list-object-versions, delete-object "
            "--version-id, or a lifecycle rule for noncurrent versions)"
        )
    elif versions is None:
        yield f"{folder.root}: the store does not say whether it keeps older versions; look there"


def _strange_files(folder: RunFolder, patient: Patient) -> Iterator[str]:
    """Files in the run that somebody named after the patient; Zarr folders are not looked into."""
    run = storage_at(folder.root).local
    if run is None:
        return
    theirs = {row.sample_id for row in patient.rows}.union(patient.names)
    pattern = _words(theirs)
    planned = (word for row in iter_plan(folder.plan) for word in (row.sample_id, *row.names))
    longer = {word for word in planned if word not in theirs and pattern.search(word)}
    others = _words(longer) if longer else None
    for root, inside, files in os.walk(run):
        for name in (*inside, *files):
            rest = others.sub("", name) if others else name  # `x-y` is not named after `x`
            if pattern.search(rest):
                yield f"{Path(root, name)}: not made by a job, and named after them; look into it"
        inside[:] = [name for name in inside if not name.endswith(".zarr")]


def _words(words: Collection[str]) -> re.Pattern[str]:
    """Any of some names, not as part of a longer word; the longest that fits."""
    ordered = sorted(words, key=lambda word: (-len(word), word))
    return re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, ordered))})(?![A-Za-z0-9])")
