"""What a run is made from changes under it: prepared data, weights, the plan.

Nothing may be made from what changed, and the job must say which; put back, it makes the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.errors import EngineError
from engine.runs.jobs.resample import ResampleConfig
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.sampling.request import SampledVolume, SampleRequest
from faults.bench import Bench, Fault, run_job
from faults.sampler import VICTIM, FakeSampler

_CASE = VICTIM.removesuffix("-r00")


@dataclass(frozen=True)
class StrikingSampler(FakeSampler):
    """Does something to the run's inputs when the first volume is sampled.

    Attributes:
        strike: what.
    """

    strike: Callable[[], None] = lambda: None

    def sample(
        self, request: SampleRequest, on_window: Callable[[int, int], None] | None = None
    ) -> SampledVolume:
        """Make one volume."""
        if self._first_time("inputs"):
            self.strike()
        return super().sample(request, on_window)


@contextmanager
def _copies(bench: Bench, out: Path) -> Iterator[ResampleConfig]:
    """The run's settings, with data and weights of its own that may be spoiled."""
    config, place = bench.config(out), out.with_name(f"{out.name}.inputs")
    shutil.copytree(bench.data, place / "data")
    shutil.copytree(config.weights, place / "weights")
    try:
        yield config.model_copy(update={"data": place / "data", "weights": place / "weights"})
    finally:
        shutil.rmtree(place)


def _marks(out: Path) -> Path:
    marks = out.with_name(f"{out.name}.marks")
    marks.mkdir()
    return marks


def changed_case(bench: Bench, out: Path) -> str:
    """A prepared case is changed between the first volume and its own two."""
    with _copies(bench, out) as config:
        mask = Path(str(config.data)) / f"{_CASE}.zarr"

        def strike() -> None:
            shutil.rmtree(mask)
            other = next(p for p in mask.parent.glob("*.zarr") if p != mask)
            shutil.copytree(other, mask)
            header = mask / "zarr.json"  # another patient under the same name, sound in itself
            header.write_text(header.read_text().replace(other.stem, mask.stem))

        failed = run_job(config, StrikingSampler(_marks(out), strike=strike))
    folder = RunFolder(out)
    if failed != 2 or ledger.committed_ids(folder) & {VICTIM, f"{_CASE}-r01"}:
        return f"{failed} volumes were refused, not the two of {_CASE}"
    if ledger.num_failures(folder, VICTIM):
        return f"it was held against {VICTIM}"
    return bench.again(out)


def flipped_weights(bench: Bench, out: Path) -> str:
    """One bit of the weights is another before the job starts."""
    with _copies(bench, out) as config:
        file = Path(config.weights) / "denoiser.safetensors"
        raw = bytearray(file.read_bytes())
        raw[-99] ^= 1
        file.write_bytes(raw)
        try:
            run_job(config, FakeSampler(bench.place))
        except EngineError:
            return bench.again(out)
    return "the job did not refuse"


def cut_plan(bench: Bench, out: Path) -> str:
    """The plan is cut between two lines, and its digest is gone; deleted, it is planned again."""
    trouble = bench.again(out)
    folder = RunFolder(out)
    lines = folder.plan.read_text().splitlines(keepends=True)
    folder.plan.write_text("".join(lines[: len(lines) // 2]))
    folder.plan_digest.unlink()
    try:
        bench.again(out)
    except EngineError:
        folder.plan.unlink()
        ledger.delete(folder, VICTIM)
        return trouble or bench.again(out)
    return "the job did not refuse"


FAULTS = (
    Fault("changed case", changed_case),
    Fault("bit in the weights", flipped_weights),
    Fault("cut plan", cut_plan),
)
