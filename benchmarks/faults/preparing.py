"""A case kills its worker wherever data are made ready: in preparing, and in the latent cache.

It must be given up after three tries and named, and the others must be there.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from engine.parallel.rows import pipeline
from engine.parallel.rows.attended import attended
from engine.parallel.rows.tries import MAX_TRIES
from engine.preparing.dataset import prepare_dataset
from engine.preparing.settings import DataSource
from engine.volumes.prepared.prepare import ABDOMEN_CT
from faults.bench import DEADLINE_S, ROOT, Bench, Fault, run_job
from faults.sampler import FakeSampler
from jobs import train_model

_KILLER = "killer"


@contextmanager
def _deadly(key: str) -> Iterator[None]:
    """Workers that die with one row, as a process that ran out of memory does."""

    def deadly(worker: type[Any], *rest: Any) -> type[Any]:
        base: Any = worker

        class Deadly(base):  # type: ignore[misc]
            def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
                if row[key] == _KILLER:
                    os.kill(os.getpid(), signal.SIGKILL)
                return base.__call__(self, row)  # type: ignore[no-any-return]

        return attended(Deadly, *rest)

    with patch.object(pipeline, "attended", deadly):
        yield


def killer_in_prepare(bench: Bench, out: Path) -> str:
    """A fourth case kills; the run over what was prepared must be whole."""
    raw = out.with_name("killer-raw")
    shutil.copytree(bench.place / "raw", raw)
    for file in [p for p in raw.rglob("phantom0000*") if p.is_file()]:
        shutil.copy(file, file.with_name(file.name.replace("phantom0000", _KILLER)))
    trouble = _child("prepare", bench, raw, out.with_name("killer-data"))
    config = bench.config(out).model_copy(update={"data": out.with_name("killer-data")})
    failed = 0 if trouble else run_job(config, FakeSampler(bench.place))
    return trouble or (f"{failed} volumes failed" if failed else "")


def killer_in_cache(bench: Bench, out: Path) -> str:
    """A case kills the encoder; the others are in the cache. The run itself is undisturbed."""
    data = out.with_name("cache-data")
    shutil.copytree(bench.data, data)
    (data / "phantom0000.zarr").rename(data / f"{_KILLER}.zarr")
    for file in (data / "dataset.json", data / f"{_KILLER}.zarr" / "zarr.json"):
        file.write_text(file.read_text().replace("phantom0000", _KILLER))
    return _child("cache", bench, data, out.with_name("killer-work")) or bench.again(out)


def _child(kind: str, bench: Bench, source: Path, target: Path) -> str:
    command = [sys.executable, "-m", "faults.preparing", "--kind", kind, "--source", str(source)]
    done = subprocess.run(
        [*command, "--target", str(target), "--place", str(bench.place)],
        cwd=ROOT / "benchmarks",
        env={k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"},
        check=False,
        timeout=DEADLINE_S,
        capture_output=True,
        text=True,
    )
    told = f"killed its worker {MAX_TRIES} times"
    said = done.stdout + done.stderr
    return "" if told in said else f"the case was not given up ({done.returncode}): {said[-300:]}"


def main(args: Sequence[str]) -> int:
    """Be the process whose workers die; says why the case was given up."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kind", choices=("prepare", "cache"), required=True)
    for name in ("--source", "--target", "--place"):
        parser.add_argument(name, type=Path, required=True)
    known = parser.parse_args(args)
    if known.kind == "cache":
        weights = known.target.with_name("killer-weights")
        shutil.copytree(ROOT / "weights" / "demo_abdomen", weights)
        words = ["--stage", "slice", "--data", str(known.source), "--weights", str(weights)]
        with _deadly("name"):
            return train_model.main([*words, "--work", str(known.target)])
    with _deadly("case_id"):
        summary = prepare_dataset(DataSource(root=known.source), known.target, ABDOMEN_CT)
    print(summary.failed)
    return 0 if set(summary.failed) == {_KILLER} else 1


FAULTS = (
    Fault("killer in prepare", killer_in_prepare, needs_ray=True),
    Fault("killer in the cache", killer_in_cache, needs_ray=True),
)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
