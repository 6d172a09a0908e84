"""The object store fails: a real S3 server on 127.0.0.1 is struck.

Each fault leaves a run in the store; what is committed there is copied to disk, so that it is
compared with the undisturbed run like every other.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

from engine.errors import StoreError, StoreUnreachableError
from engine.runs.audit.verify import VerifyJob, verify_run
from engine.runs.jobs.resample import ResampleConfig
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder, lock_run
from engine.sampling.request import SampledVolume, SampleRequest
from engine.storage.objects.path import ObjectPath
from faults.bench import DEADLINE_S, ROOT, Bench, Fault, run_job
from faults.sampler import VICTIM, FakeSampler
from s3_server import BUCKET, CREDENTIALS, S3Server, slow_way

Strike = Callable[["Struck"], str]


class Struck:
    """One server and one run on it.

    Attributes:
        server: the store.
        config: the run's settings.
        folder: the run.
        place: of the bench, on disk.
    """

    def __init__(self, bench: Bench, server: S3Server, name: str) -> None:
        self.server, self.place = server, bench.place
        self.root = ObjectPath(f"s3://{BUCKET}/{name.replace(' ', '-')}")
        self.folder = RunFolder(self.root)
        self.config: ResampleConfig = bench.config(Path()).model_copy(update={"out": self.root})

    def run(self, sampler: FakeSampler | None = None) -> str:
        """The job in this process; what went wrong, or nothing."""
        failed = run_job(self.config, sampler or FakeSampler(self.place))
        return f"{failed} volumes failed" if failed else ""

    def child(self, *, deadly: bool = False) -> int:
        """The job as a process of its own; returns its exit code (negative: the signal)."""
        command = [sys.executable, "-m", "faults.stores", "--out", str(self.root)]
        command += ["--place", str(self.place), *(["--deadly"] if deadly else [])]
        done = subprocess.run(
            command,
            cwd=ROOT / "benchmarks",
            check=False,
            timeout=DEADLINE_S,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return done.returncode

    def mirror(self, out: Path) -> None:
        """Copy what is committed to a run folder on disk; other attempts become strangers."""
        copy = RunFolder(out)
        copy.create()
        for name in ledger.stored_ids(self.folder):
            commit = ledger.existing(self.folder, name)
            for attempt in ObjectPath(f"{self.root}/volumes/{name}").iterdir():
                counts = commit is not None and attempt.name == commit.volume
                to = out / "volumes" / (f"{name}.ome.zarr" if counts else f"{name}.{attempt.name}")
                for file in attempt.sizes():
                    (to / file).parent.mkdir(parents=True, exist_ok=True)
                    (to / file).write_bytes((attempt / file).read_bytes())
            if commit is not None:
                text = commit.model_copy(update={"volume": ""}).model_dump_json(indent=1)
                (out / "commits" / f"{name}.json").write_text(text)


class DyingServerSampler(FakeSampler):
    """The server dies when the second volume is sampled."""

    def sample(
        self, request: SampleRequest, on_window: Callable[[int, int], None] | None = None
    ) -> SampledVolume:
        """Make one volume; stop the server first when it is the one."""
        if request.sample_id == VICTIM and self._first_time(f"{id(_dying[0])}"):
            _dying[0]()
        return super().sample(request, on_window)


_dying: list[Callable[[], None]] = []


def refuses(struck: Struck) -> str:
    """The server is down when the job starts: it must say so, and a rerun must do all."""
    struck.server.stop()
    try:
        struck.run()
    except StoreUnreachableError:
        struck.server.start()
        return struck.run()
    return "the job did not end"


def is_slow(struck: Struck) -> str:
    """Every answer comes late."""
    with slow_way(struck.server.port, 0.05) as port, _environment(port):
        return struck.run()


def dies_and_comes_back(struck: Struck) -> str:
    """The server is gone for some seconds in mid-volume: nobody may notice."""
    with _environment(struck.server.port, patience_s=120):
        _dying[:] = [lambda: _stop_for(struck.server, 3.0)]
        trouble = struck.run(DyingServerSampler(struck.place))
    attempts = ledger.read_attempts(struck.folder, VICTIM)
    return trouble or ("" if len(attempts) == 1 else f"{len(attempts)} attempts")


def dies(struck: Struck) -> str:
    """The server is gone for good in mid-volume: the job must end, and a rerun must do the rest."""
    _dying[:] = [struck.server.stop]
    try:
        struck.run(DyingServerSampler(struck.place))
    except StoreUnreachableError:
        struck.server.start()
        trouble = struck.run()
        return trouble or ("" if not ledger.num_failures(struck.folder, VICTIM) else "was blamed")
    return "the job did not end"


def killed_before_record(struck: Struck) -> str:
    """SIGKILL of the job between the last object of a volume and its commit record."""
    code = struck.child(deadly=True)
    return struck.run() if code == -signal.SIGKILL else f"the job was not killed ({code})"


def damaged(struck: Struck) -> str:
    """Objects are torn, lost and changed, a record is cut: verify must see and repair all of it."""
    struck.run()
    names = sorted(ledger.committed_ids(struck.folder))
    shards = []
    for name in names[:3]:
        commit = ledger.read_commit(struck.folder, name)
        assert commit is not None
        shards.append(ObjectPath(f"{struck.root}/volumes/{name}/{commit.volume}/0/c/0/0/0"))
    raw = [shard.read_bytes() for shard in shards]
    shards[0].write_bytes(raw[0][: len(raw[0]) // 2])
    shards[1].unlink()
    shards[2].write_bytes(raw[2][:99] + bytes([raw[2][99] ^ 1]) + raw[2][100:])
    record = struck.folder.commit(names[3])
    record.write_text(record.read_text()[:300])
    found = {f.sample_id for f in verify_run(VerifyJob(run=struck.root)).findings}
    if found != set(names[:4]):
        return f"verify saw {sorted(found)}"
    verify_run(VerifyJob(run=struck.root, repair=True))
    return struck.run()


def two_jobs(struck: Struck) -> str:
    """A second job on the run must be refused."""
    with lock_run(struck.folder):
        if struck.child() == 0:
            return "the second job was not refused"
    return struck.run()


def careless(struck: Struck) -> str:
    """A store that ignores If-None-Match: found and named before anything is trusted to it."""

    def overwrite(place: ObjectPath, data: bytes) -> bool:
        place.write_bytes(data)
        return True

    try:
        with patch.object(ObjectPath, "write_new", overwrite):
            struck.run()
    except StoreError:
        committed = any(struck.folder.commits.iterdir())
        return struck.run() or ("something was committed" if committed else "")
    return "the job did not refuse"


_STRIKES: dict[str, Strike] = {
    "s3 refuses": refuses,
    "s3 slow": is_slow,
    "s3 dies and comes back": dies_and_comes_back,
    "s3 dies": dies,
    "s3 kill before record": killed_before_record,
    "s3 damage": damaged,
    "s3 two jobs": two_jobs,
    "s3 careless": careless,
}


def strike(bench: Bench, out: Path, fault: str) -> str:
    """One fault of `S3_FAULTS` on a server of its own; leaves the run's copy in `out`."""
    server = S3Server()
    server.start()
    try:
        with _environment(server.port):
            server.reset()
            struck = Struck(bench, server, fault)
            trouble = _STRIKES[fault](struck)
            struck.mirror(out)
    finally:
        server.stop()
    return trouble


FAULTS = tuple(Fault(name, partial(strike, fault=name)) for name in _STRIKES)


@contextmanager
def _environment(port: int, patience_s: float = 4.0) -> Iterator[None]:
    """Lead this process and its children to a server."""
    new = {
        **CREDENTIALS,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "GEM3D_STORE_PATIENCE_S": str(patience_s),
    }
    before = {name: os.environ.get(name) for name in new}
    os.environ.update(new)
    forget_connections()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        forget_connections()


def forget_connections() -> None:
    """Have the next call read the environment anew."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def _stop_for(server: S3Server, seconds: float) -> None:
    server.stop()
    threading.Timer(seconds, server.start).start()


def _die_before_record() -> None:
    write_new = ObjectPath.write_new

    def deadly(place: ObjectPath, data: bytes) -> bool:
        if place.name == f"{VICTIM}.json" and place.parent.name == "commits":
            os.kill(os.getpid(), signal.SIGKILL)
        return write_new(place, data)

    setattr(ObjectPath, "write_new", deadly)  # noqa: B010  # mypy knows the class's own method


def main(args: Sequence[str]) -> int:
    """Be the job that a fault strikes."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--out", type=ObjectPath, required=True)
    parser.add_argument("--deadly", action="store_true")
    known = parser.parse_args(args)
    bench = Bench(known.place)
    if known.deadly:
        _die_before_record()
    config = bench.config(Path()).model_copy(update={"out": known.out})
    return run_job(config, FakeSampler(known.place))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
