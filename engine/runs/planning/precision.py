"""The precision of a run: chosen once, for the weakest machine that will hold a worker.

`auto` must not mean another thing on another machine, or a run made by two of them is a mixture.
What is chosen stands in run.yaml; a run that is continued keeps it. Knows no networks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from engine.errors import ConfigError, RunError
from engine.log import get_logger
from engine.parallel.own_process import in_own_process
from engine.parallel.start.session import RaySession
from engine.runs.planning.inputs import check_tensors
from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import read_identity
from engine.sampling.config import SamplingConfig

log = get_logger(__name__)

_LOOK_S = 300.0  # a worker process imports torch first, on a busy machine for minutes
_A_LITTLE = 0.01  # of a GPU: enough to see it, and it is free again before workers start


def with_precision(
    sampling: SamplingConfig, folder: RunFolder, session: RaySession, look: ModelLook
) -> SamplingConfig:
    """Settings whose precision is the one of the run.

    Args:
        sampling: resolved otherwise (`SamplingConfig.resolved`).
        folder: of the run; one that was begun keeps its precision.
        session: joins the cluster when its machines must be asked.
        look: what this computer can do, where it is the only machine.

    Raises:
        ConfigError: a precision is named that a machine of the run cannot do.
        RunError: the cluster cannot be used, or a machine does not answer.
    """
    if sampling.precision == "float32":
        return sampling
    if sampling.precision == "auto" and folder.identity.exists():
        kept = read_identity(folder.identity).settings.get("sampling", {}).get("precision", "auto")
        return sampling.model_copy(update={"precision": kept})
    machines = _machines(session, look)
    if sampling.precision != "auto":
        _refuse_unable(sampling.precision, machines)
        return sampling
    chosen = common_precision(list(machines.values()))
    log.info("precision %s, which all of %s can do", chosen, ", ".join(machines))
    return sampling.model_copy(update={"precision": chosen})


def common_precision(machines: Sequence[Sequence[str]]) -> str:
    """What `auto` stands for when all of these machines take part: what the weakest can do.

    Args:
        machines: of each, its precisions, the preferred first; at least one machine.

    >>> common_precision([("bfloat16", "float16", "float32"), ("float16", "float32")])
    'float16'
    """
    shared = set(machines[0]).intersection(*machines)
    weakest = min(machines, key=len)  # decides the order, too
    return next(name for name in weakest if name in shared)


def local_precisions() -> tuple[str, ...]:
    """What this computer's device can do; imports torch: a driver calls it `in_own_process`."""
    import torch

    from engine.sampling.networks.precision import device_precisions, own_device

    return device_precisions(torch.device(own_device()))


class ModelLook:
    """A look at weights and device in a process of its own, which imports torch: at most one.

    Args:
        weights: folder of the model.
        checks: whether its tensors are looked at, too.
    """

    def __init__(self, weights: Path, *, checks: bool) -> None:
        self._weights = weights if checks else None
        self._found: tuple[str, ...] | None = None

    def precisions(self) -> tuple[str, ...]:
        """What this computer's device can do.

        Raises:
            WeightsError: the tensors are not those of the weights' architecture.
        """
        if self._found is None:
            self._found = in_own_process(_look, self._weights)
        return self._found

    def finish(self) -> None:
        """Have the tensors looked at, where nobody has asked for anything; raises as above."""
        self.precisions()


def _look(weights: Path | None) -> tuple[str, ...]:
    if weights is not None:
        check_tensors(weights)
    return local_precisions()


def _machines(session: RaySession, look: ModelLook) -> dict[str, tuple[str, ...]]:
    """What each kind of machine that will hold a worker can do, by a name for messages."""
    if not os.environ.get("RAY_ADDRESS") and not ray.is_initialized():
        return {"this computer": look.precisions()}
    session.start()
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    gpus = [n for n in nodes if n["Alive"] and n["Resources"].get("GPU", 0) > 0]
    if not gpus:  # workers without a GPU compute on CPUs, which are all alike here
        return {"the cluster's CPUs": ("float32", "bfloat16")}
    asked = {n["NodeName"]: _ask(n["NodeID"]) for n in gpus}
    try:
        found = ray.get(list(asked.values()), timeout=_LOOK_S)
    except ray.exceptions.GetTimeoutError:
        raise RunError(
            f"the GPUs of {', '.join(asked)} did not answer within {_LOOK_S:.0f} s, so it is not "
            "known what they can do; free them, or say it with --sampling.precision float32"
        ) from None
    return dict(zip(asked, found, strict=True))


def _ask(node_id: str) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    options = {"num_cpus": 0, "num_gpus": _A_LITTLE, "scheduling_strategy": strategy}
    return ray.remote(local_precisions).options(**options).remote()


def _refuse_unable(name: str, machines: dict[str, tuple[str, ...]]) -> None:
    unable = {machine: able for machine, able in machines.items() if name not in able}
    if unable:
        machine, able = next(iter(unable.items()))
        raise ConfigError(
            f"sampling.precision {name}: {machine} can do {' and '.join(sorted(able))} only; give "
            f"one of those with --sampling.precision"
        )
