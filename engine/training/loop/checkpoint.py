"""Checkpoints of a stage: written beside the training, whole or not at all, the best and the last.

A checkpoint is `step_NNNNNNNN/` with the gathered state (safetensors, no pickle) and `state.json`,
whose digest of the tensors is checked before they are used: a half-written or damaged one is passed
over for the one before. Knows neither DeepSpeed nor what is learnt.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.config import leave_out_later
from engine.errors import TrainingError
from engine.log import get_logger
from engine.paths import resolve_paths
from engine.storage.checked_files import read_json
from engine.storage.digests import hash_file
from engine.storage.durable import finish_replacing, flush_tree, replace_folder
from engine.training.config import TrainConfig
from models.presets import Preset

log = get_logger(__name__)

_TENSORS, _STATE = "state.safetensors", "state.json"
_KEEP_LAST = 2
# What may change between a checkpoint and its resume without changing what is learnt.
_FREE = {
    "num_iterations", "max_minutes", "num_workers", "batch_size", "global_batch_size", "use_gpu",
    "zero_stage", "activation_checkpointing", "threads", "checkpoint_minutes", "checkpoint_steps",
    "export", "log_steps", "sample_steps", "trackers", "peak_tflops", "work", "about", "private",
}  # fmt: skip
# Settings that older checkpoints do not name, and what they were then.
_LATER: dict[str, Any] = {"splits": ["train"], "pinned_share": 0.0, "texture_weight": 0.0}


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk.

    Attributes:
        path: its folder.
        step: optimiser steps done.
        score: probe loss, lower is better; None when it was not measured or not finite.
        state: JSON values.
    """

    path: Path
    step: int
    score: float | None
    state: Mapping[str, Any]

    def tensors(self) -> dict[str, Tensor]:
        """The gathered state, in CPU memory."""
        return load_file(self.path / _TENSORS)


class CheckpointWriter:
    """Writes checkpoints in a thread of its own, one at a time.

    A write that fails (a full disk) is logged and leaves the older checkpoints as they were; the
    training goes on, and its last write, at the end or at an interrupt, raises.
    """

    def __init__(self, config: TrainConfig, preset: Preset) -> None:
        self.root, self.identity = checkpoint_root(config), stage_identity(config, preset)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def put(
        self, step: int, tensors: dict[str, Tensor], state: Mapping[str, Any], score: float | None
    ) -> None:
        """Write `tensors` (CPU copies that nobody changes any more) and JSON values."""
        self._settle()
        self._pending = self._thread.submit(self._write, step, tensors, dict(state), score)

    def close(self) -> None:
        """Wait for the last write.

        Raises:
            TrainingError: it failed.
        """
        pending, self._pending = self._pending, None
        self._thread.shutdown(wait=True)
        if pending is not None:
            try:
                pending.result()
            except OSError as error:
                raise TrainingError(
                    f"{self.root}: the checkpoint cannot be written ({error}); free some space; "
                    "older checkpoints are untouched"
                ) from None

    def _settle(self) -> None:
        if self._pending is not None:
            try:
                self._pending.result()
            except OSError as error:
                log.error("%s: no checkpoint written (%s); older ones are kept", self.root, error)

    def _write(
        self, step: int, tensors: dict[str, Tensor], state: dict[str, Any], score: float | None
    ) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        staged = self.root / f".step_{step:08d}.{uuid.uuid4().hex[:8]}.part"
        try:
            staged.mkdir()
            save_file(tensors, staged / _TENSORS)
            record = {
                **state,
                "step": step,
                "score": score if score is not None and math.isfinite(score) else None,
                "identity": self.identity,
                "sha256": hash_file(staged / _TENSORS),
            }
            (staged / _STATE).write_text(json.dumps(record), encoding="utf-8")
            flush_tree(staged)
            replace_folder(staged, self.root / f"step_{step:08d}")
        except BaseException as error:
            shutil.rmtree(staged, ignore_errors=True)
            if isinstance(error, OSError) or not isinstance(error, Exception):
                raise
            raise OSError(str(error)) from error  # safetensors has errors of its own
        _prune(self.root)


def newest_checkpoint(config: TrainConfig) -> Checkpoint | None:
    """The newest whole checkpoint of the stage; damaged ones are passed over with a warning."""
    for found in reversed(_listed(checkpoint_root(config))):
        if _intact(found):
            return found
        log.warning("%s: half-written or damaged; passed over", found.path)
    return None


def best_checkpoint(config: TrainConfig) -> Checkpoint | None:
    """The whole checkpoint with the lowest score, or None when none was scored."""
    best = _best(_listed(checkpoint_root(config)))
    return best if best is not None and _intact(best) else None


def check_identity(found: Checkpoint, config: TrainConfig, preset: Preset) -> None:
    """Refuse to go on from a checkpoint of other settings.

    Raises:
        TrainingError: names what differs.
    """
    then, now = found.state["identity"], stage_identity(config, preset)
    then = {**then, **_absolute(then, config)}
    changed = sorted(key for key in {*now, *then} if then.get(key) != now.get(key))
    if changed:
        raise TrainingError(
            f"{found.path}: was made with other settings ({', '.join(changed)}); "
            "restore them, or give another work folder"
        )


def discard_checkpoints(config: TrainConfig) -> None:
    """Remove a finished stage's checkpoints."""
    shutil.rmtree(checkpoint_root(config), ignore_errors=True)


def checkpoint_root(config: TrainConfig) -> Path:
    """Folder of the stage's checkpoints."""
    return config.work / "checkpoints" / config.stage


def stage_identity(config: TrainConfig, preset: Preset) -> dict[str, Any]:
    """What decides what is learnt: settings, and the architecture under its name."""
    settings = {k: v for k, v in config.model_dump(mode="json").items() if k not in _FREE}
    leave_out_later(settings, _LATER)
    architecture = hashlib.sha256(preset.model_dump_json().encode()).hexdigest()[:16]
    return {**settings, "architecture": architecture}


def _absolute(then: Mapping[str, Any], config: TrainConfig) -> dict[str, str]:
    """Paths of an earlier version's checkpoint, which may be relative, as `config` has them."""
    keys = [key for key, value in config if isinstance(value, Path) and then.get(key)]
    use = config.model_copy(update={key: Path(then[key]) for key in keys})
    return {key: str(getattr(resolve_paths(use), key)) for key in keys}


def _listed(root: Path) -> list[Checkpoint]:
    """Checkpoints whose `state.json` can be read, oldest first."""
    for old in root.glob(".step_*.replaced"):  # the power was cut while it was replaced
        finish_replacing(root / old.name[1:].removesuffix(".replaced"))
    found = []
    for path in sorted(root.glob(f"step_*/{_STATE}")):
        try:
            found.append(_read(path))
        except (OSError, ValueError):
            log.warning("%s: half-written or damaged; passed over", path.parent)
    return found


def _read(path: Path) -> Checkpoint:
    """A checkpoint by its `state.json`.

    Raises:
        OSError: it cannot be read, or is not JSON of a bounded size and depth.
        ValueError: it is not what `CheckpointWriter` writes, or of another step than its folder.
    """
    state = read_json(path)
    if not isinstance(state, dict):
        raise ValueError("not a checkpoint's state")
    step, score = state.get("step"), state.get("score")
    if type(step) is not int or path.parent.name != f"step_{step:08d}":
        raise ValueError("of another step than its folder")
    if score is not None and not (type(score) in (int, float) and math.isfinite(score)):
        raise ValueError("a score that is no number")
    if not isinstance(state.get("identity"), dict):
        raise ValueError("it names no settings")
    return Checkpoint(path.parent, step, score, state)


def _intact(found: Checkpoint) -> bool:
    try:
        return hash_file(found.path / _TENSORS) == str(found.state["sha256"])
    except (OSError, KeyError):
        return False


def _best(found: list[Checkpoint]) -> Checkpoint | None:
    scored = [c for c in found if c.score is not None]
    return min(scored, key=lambda c: c.score or 0.0, default=None)


def _prune(root: Path) -> None:
    found = _listed(root)
    best = _best(found)
    for old in found[:-_KEEP_LAST]:
        if best is None or old.path != best.path:
            shutil.rmtree(old.path, ignore_errors=True)
