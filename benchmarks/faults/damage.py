"""What is stored is damaged: verify must see it, repair it, and a rerun fill it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from engine.runs.audit.verify import VerifyJob, verify_run
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import iter_plan
from engine.storage.places import Place
from faults.bench import Bench, Fault
from faults.sampler import VICTIM


def damaged(bench: Bench, out: Path, harm: Callable[[RunFolder], None]) -> str:
    """A finished run is damaged, looked at, repaired and filled."""
    bench.again(out)
    harm(RunFolder(out))
    if verify_run(VerifyJob(run=out)).is_sound:
        return "verify saw nothing"
    verify_run(VerifyJob(run=out, repair=True))
    return bench.again(out)


def _shard(folder: RunFolder) -> Place:
    return folder.volume(VICTIM) / "0" / "c" / "0" / "0" / "0"


def _tear(folder: RunFolder) -> None:
    raw = _shard(folder).read_bytes()
    _shard(folder).write_bytes(raw[: len(raw) // 2])


def _lose(folder: RunFolder) -> None:
    _shard(folder).unlink()


def _empty(folder: RunFolder) -> None:
    _shard(folder).write_bytes(b"")


def _flip(folder: RunFolder) -> None:
    raw = _shard(folder).read_bytes()
    _shard(folder).write_bytes(raw[:99] + bytes([raw[99] ^ 1]) + raw[100:])


def _halve_record(folder: RunFolder) -> None:
    record = folder.commit(VICTIM)
    record.write_text(record.read_text()[:300])


def _edit_record(folder: RunFolder) -> None:
    record = folder.commit(VICTIM)
    fields = json.loads(record.read_text())
    record.write_text(json.dumps({**fields, "seed": fields["seed"] + 1}, indent=1))


def _move_in(folder: RunFolder) -> None:
    """Another sample's files in a volume's place, by a copy that went to the wrong folder."""
    other = next(row for row in iter_plan(folder.plan) if row.sample_id != VICTIM)
    source, target = (Path(str(folder.volume(n))) for n in (other.sample_id, VICTIM))
    shutil.rmtree(target)
    shutil.copytree(source, target)


FAULTS = tuple(
    Fault(name, partial(damaged, harm=harm))
    for name, harm in {
        "torn": _tear,
        "missing": _lose,
        "empty": _empty,
        "bit": _flip,
        "half a record": _halve_record,
        "edited record": _edit_record,
        "another's files": _move_in,
    }.items()
)
