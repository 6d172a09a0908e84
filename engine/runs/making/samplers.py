"""What a worker asks of a model, and how it gets one. Names no network before it is loaded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from engine.errors import SamplingError, WeightsError
from engine.runs.making.task import WorkerTask
from engine.runs.record.identity import hash_weights
from engine.sampling.config import SamplingConfig
from engine.sampling.request import Outcome, SampledVolume, SampleRequest
from models.weights.manifest import CONFIG


@runtime_checkable
class ManySampler(Protocol):
    """A model that makes several volumes side by side."""

    def sample_many(
        self,
        requests: Iterable[SampleRequest | None],
        on_window: Callable[[str, int, int], None] | None = None,
    ) -> Iterator[Outcome]:
        """Make volumes together; see `engine.sampling.sampler.Sampler`."""


class SamplerLike(Protocol):
    """What a worker asks of a model."""

    def sample(
        self, request: SampleRequest, on_window: Callable[[int, int], None] | None = None
    ) -> SampledVolume:
        """Make one volume."""


LoadSampler = Callable[[Path, SamplingConfig, str], SamplerLike]


def load_sampler(weights: Path, config: SamplingConfig, device: str) -> SamplerLike:
    """The real model; who only names it loads no networks."""
    from engine.sampling.sampler import Sampler

    return Sampler.load(weights, config, device=device)


def refuse_other_weights(task: WorkerTask, sampler: SamplerLike) -> None:
    """What this worker has loaded must be what the run is made with; its copy may be another.

    A sampler that does not say what it loaded is asked by its folder.

    Raises:
        WeightsError: it is not.
    """
    loaded = getattr(sampler, "weights_sha256", "")
    if not loaded and (task.weights / CONFIG).is_file():
        loaded, _ = hash_weights(task.weights)
    if loaded and task.weights_sha256 and loaded != task.weights_sha256:
        raise WeightsError(
            f"{task.weights}: this worker loaded other weights than the run was planned with "
            f"(sha256 {loaded[:12]}..., planned with {task.weights_sha256[:12]}...); put the "
            "same weights on every machine and start the job again"
        )


class OneByOne:
    """A sampler of single volumes, dressed as one of many."""

    def __init__(self, sampler: SamplerLike) -> None:
        self._sampler = sampler

    def sample_many(
        self,
        requests: Iterable[SampleRequest | None],
        on_window: Callable[[str, int, int], None] | None = None,
    ) -> Iterator[Outcome]:
        """See `Sampler.sample_many`."""
        pause = threading.Event()
        for request in requests:
            if request is None:
                pause.wait(0.005)
                continue
            name = request.sample_id

            def tell(done: int, total: int, name: str = name) -> None:
                if on_window is not None:
                    on_window(name, done, total)

            try:
                yield Outcome(name, volume=self._sampler.sample(request, tell))
            except SamplingError as error:
                yield Outcome(name, error=error)
            except Exception as error:
                yield Outcome(name, error=SamplingError(f"{type(error).__name__}: {error}"))
