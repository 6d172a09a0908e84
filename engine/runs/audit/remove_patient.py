"""A patient taken out of a run: volumes, records, slices, masks, lines, pages, exports.

Nothing is claimed that is not so: each thing is deleted on its own, what cannot be deleted is kept
count of while the rest goes on, and the same call again finishes the work. Whose data these are
says `record/patients.py`; what stays outside `outside_run.py`. The caller holds the run's lock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable

from engine.errors import StoreUnreachableError
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.patients import COHORT, Patient
from engine.runs.record.plan import PlanRow
from engine.runs.report.evaluation import METRICS, PLOT
from engine.storage.backends.find import storage_at
from engine.storage.checked_files import MAX_LIST_BYTES, parse_json, read_bytes
from engine.storage.files import put
from engine.storage.places import Place


class Removal:
    """Deletes one thing after the other.

    Attributes:
        left: what could not be deleted, and why.
    """

    def __init__(self) -> None:
        self.left: list[str] = []

    def remove(self, place: Place) -> None:
        """Delete a file, a folder or a link; nothing when it is gone."""
        storage_at(place).remove_each(self._note)

    def attempt(self, place: Place, work: Callable[[], object]) -> bool:
        """Do something that deletes, and go on when it cannot.

        Returns:
            Whether it could.

        Raises:
            StoreUnreachableError: nobody can tell what is left.
        """
        try:
            work()
        except FileNotFoundError:
            pass
        except StoreUnreachableError:
            raise
        except OSError as error:
            self.left.append(f"{place} ({error.strerror or error})")
            return False
        return True

    def _note(self, path: str, error: BaseException) -> None:
        named = any(known.startswith(f"{path}/") for known in self.left)  # a folder is not empty
        if not isinstance(error, FileNotFoundError) and not named:
            self.left.append(f"{path} ({getattr(error, 'strerror', None) or error})")


def remove_from_run(folder: RunFolder, patient: Patient) -> list[str]:
    """Delete everything of a patient below a run; exports are not looked at.

    Returns:
        What could not be deleted, and why.
    """
    removal = Removal()
    samples = {row.sample_id for row in patient.rows}
    for row in patient.rows:
        _remove_volume(folder, row.sample_id, removal)
    places = [
        *storage_at(folder.staging).children(),  # no job is at work: what is in there is nobody's
        *own_places(folder, patient.names, patient.rows),
        *pages(folder),
    ]
    for place in places:
        removal.remove(place)
    removal.attempt(folder.progress, lambda: _drop_lines(folder.progress, samples))
    removal.attempt(folder.failures, lambda: _drop_lines(folder.failures, samples))
    return removal.left


def remove_deleted(folder: RunFolder, removal: Removal) -> None:
    """Remove what is left of volumes that were deleted. The caller holds the run's lock."""
    for place in storage_at(folder.staging).children():
        if place.name.endswith(".deleted"):
            removal.remove(place)


def own_places(folder: RunFolder, names: Collection[str], rows: Iterable[PlanRow]) -> list[Place]:
    """What a run keeps of a patient beside the volumes: slices, drawn masks, the demo's cohort.

    And attempts at the volumes, half written or half deleted.
    """
    rows = list(rows)
    samples = {row.sample_id for row in rows}
    found = [
        place for place in storage_at(folder.staging).children() if _is_of(place.name, samples)
    ]
    found += [folder.attempts / name for name in sorted(ledger.attempted_ids(folder) & samples)]
    for name in names:
        found += storage_at(folder.root / "informed").named(f"{name}.zarr")
        found += storage_at(folder.root / COHORT / "prepared").named(f"{name}.zarr")
        if (root := storage_at(folder.root).local) is not None:
            raw = re.compile(rf"\.?{re.escape(name)}(_\d{{4}})?\..*")
            below = sorted((root / COHORT / "raw").rglob("*"))
            found += [path for path in below if raw.fullmatch(path.name)]
    for drawn in {row.drawn_mask for row in rows} - {""}:
        parent, _, file_name = drawn.rpartition("/")
        found += storage_at(folder.root / parent).named(file_name)
    return found


def pages(folder: RunFolder) -> list[Place]:
    """What was computed from all volumes together: the run's job makes it anew."""
    made: list[Place] = [folder.report, folder.summary, folder.table, folder.cohort]
    made += folder.root.glob("harmonization.*")
    made += [folder.evaluation / METRICS, folder.evaluation / PLOT]
    return made + storage_at(folder.root).torn()  # of a job that was killed while it wrote one


def _remove_volume(folder: RunFolder, sample_id: str, removal: Removal) -> None:
    """A sample's volume, commit record and attempts, whole or half written."""
    volume, attempts = folder.volume(sample_id), folder.attempts / sample_id
    removal.attempt(volume, lambda: ledger.delete(folder, sample_id))
    records: list[Place] = []
    if storage_at(folder.root).can_rename:  # else its record's names stay taken: see `slots.py`
        records = [folder.commit(sample_id)]
        records += storage_at(folder.commits).named(f"{sample_id}.json")
    for place in (*records, volume, attempts):  # also what a late worker has put there meanwhile
        removal.remove(place)


def _drop_lines(place: Place, samples: Collection[str]) -> None:
    """Take some samples' lines out of a list, and lines that nobody can read."""
    storage_at(place).keep_appended(lambda line: _keeps(line, samples))
    lines = read_bytes(place, MAX_LIST_BYTES).decode(errors="replace").splitlines()
    kept = [line for line in lines if _keeps(line, samples)]
    if len(kept) < len(lines):
        put(place, "".join(f"{line}\n" for line in kept))


def _is_of(staged: str, samples: Collection[str]) -> bool:
    """Whether a name in `staging` begins with a sample's; these may hold dots, too."""
    parts = staged.split(".")
    return any(".".join(parts[:count]) in samples for count in range(1, len(parts)))


def _keeps(line: str, samples: Collection[str]) -> bool:
    try:
        found = parse_json(line)
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("sample_id") not in samples
