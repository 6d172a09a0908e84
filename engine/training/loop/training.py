"""One worker's training: build the stage, resume, step until done, export.

DeepSpeed makes the steps; a process group exists by then. Knows neither Ray nor what a stage
learns (stages/).
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from engine.errors import TrainingError
from engine.log import get_logger
from engine.training.config import TrainConfig
from engine.training.examples.ahead import ExamplesAhead
from engine.training.loop.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    best_checkpoint,
    check_identity,
    newest_checkpoint,
)
from engine.training.optimisation.batching import resolve_batching
from engine.training.optimisation.ema import Ema
from engine.training.optimisation.outcomes import LOOK_EVERY_ON_GPU, Outcomes
from engine.training.optimisation.pace import Pace, learning_rate_factor
from engine.training.optimisation.precision import LossScale, LossScaleOnGpu
from engine.training.optimisation.sharding import (
    backward,
    cpu_copy,
    gather_state,
    scatter_state,
    start_deepspeed,
    take_step,
)
from engine.training.optimisation.workers import Workers
from engine.training.settings.parts import MachineSettings
from engine.training.stages.base import StageModel, Survey
from engine.training.stages.registry import build_stage
from engine.training.stages.survey import survey
from engine.training.watch.monitor import Monitor
from engine.training.weights.export import export_stage, measurements, write_losses

log = get_logger(__name__)

_AHEAD_GPU = 4  # micro-batches, each drawn in a thread: a GPU step may be shorter than one draw


def run_stage(
    start: TrainConfig | Survey, rank: int = 0, num_local_workers: int = 1
) -> dict[str, Any]:
    """Train one stage in this process and, on rank 0, write its weights.

    Args:
        start: the stage's survey, or the settings to make one from.
        rank: of this worker among all.
        num_local_workers: workers that share this machine's cores.

    Returns:
        What was measured: iterations, seconds, loss, cases, parameters.

    Raises:
        TrainingError: see `survey`, `build_stage`; or the loss or its gradients are not finite.
    """
    found = start if isinstance(start, Survey) else survey(start)
    cores = os.cpu_count() or 1
    torch.set_num_threads(found.config.threads or max(1, cores // num_local_workers))
    training = Training(found, rank)
    try:
        training.run()
    finally:
        training.close()
    return training.finish()


class Training:
    """State of one worker's training: what a checkpoint holds, and what makes the steps."""

    def __init__(self, survey: Survey, rank: int) -> None:
        self.config, self.settings = survey.config, survey.settings
        config = survey.config
        self.manifest, self.workers = survey.manifest, Workers(rank, config.use_gpu)
        self.stage = build_stage(survey)
        found = self._found()
        _prepare_memory(self.stage, config)
        earlier = None if found is None else int(found.state["examples"])
        self.batching = resolve_batching(config, earlier, self.workers.world, self._trial)
        self.stage.share = 1.0 / self.batching.accumulate
        self.engine: Any = None
        if config.num_iterations > 0:
            self.engine = start_deepspeed(
                self.stage, self.settings.optimiser, self.settings.machine, self.batching
            )
            if config.zero_stage == 0:
                # after DeepSpeed's broadcast, which wants contiguous weights; ZeRO's flat ones stay
                self.stage.choose_memory_format()
        self.ema = Ema(self.stage.net, config.ema_half_life)
        self.scale = _loss_scale(self.settings.machine, self.stage.device)
        self.pace = Pace(config.num_iterations, config.max_minutes)
        self.losses: list[float] = []
        if found is not None:
            self._resume(found)
        self.writer = CheckpointWriter(config, self.stage.preset)
        self.monitor = Monitor(survey, self.stage, self.batching, shown=rank == 0)
        on_gpu = self.stage.device.type == "cuda"
        self.outcomes = Outcomes(
            LOOK_EVERY_ON_GPU if on_gpu else 1, self._not_finite, skips=self.scale.dynamic
        )
        self.examples = ExamplesAhead(
            self._draw, self.batching.accumulate, _AHEAD_GPU if on_gpu else 1, pinned=on_gpu
        )

    def run(self) -> None:
        """Step until a limit is reached."""
        while not self.pace.done:
            step = self.pace.step
            self._set_learning_rate()
            self.stage.begin_step(step, self.ema)
            losses = []
            for part in range(self.batching.accumulate):
                with self.monitor.waiting():
                    examples = self.examples.take(step, part)
                loss, norm = self._micro_step(examples)
                losses.append(loss)
            self._end_step(torch.stack(losses).mean(), norm)
        self._look()

    def close(self) -> None:
        """End the threads; a checkpoint that is being written is finished first."""
        self.examples.close()
        self.monitor.close()
        self.writer.close()

    def finish(self) -> dict[str, Any]:
        """Export on rank 0; what was measured."""
        measured = measurements(self.stage, self.batching, self.pace, self.losses)
        if self.workers.rank == 0:
            if self.config.export == "best":
                best = best_checkpoint(self.config)
                if best is not None:
                    self._load_average(best)
                    measured["exported_step"] = best.step
            write_losses(self.config, self.losses)
            export_stage(self.stage, self.ema, self.manifest, self.config, measured)
        self.workers.wait()
        return measured

    def _micro_step(self, examples: Any) -> tuple[Tensor, Tensor]:
        """Forward, backward and, behind the last micro-batch, the optimiser's step.

        Returns:
            Loss over all workers and norm of the gradient: scalars that nobody has waited for.
        """
        with self.monitor.working():
            loss = self.engine(examples)
        value = self.workers.mean(loss)
        with self.monitor.working():
            backward(self.engine, loss, self.scale)
            norm = take_step(self.engine, self.config.grad_clip, self.scale)
        return value, norm

    def _end_step(self, loss: Tensor, norm: Tensor) -> None:
        self.stage.end_step()
        self.pace.advance()
        self.ema.update(self.stage.net, self.pace.step)
        self.outcomes.put(self.pace.step, loss, norm)
        if self.workers.world == 1 or self.pace.step % self.outcomes.look_every == 0:
            self.pace.agree(self.workers.first(self.pace.elapsed_s))
        shown = self.monitor.is_due(self.pace)
        if shown or self.outcomes.is_due:
            self._look()
        if shown:
            self.monitor.show(self.pace, self.losses, self.engine, self.scale)
        self.monitor.samples(self.pace, self.ema)
        every = self.config.checkpoint_steps
        due = self.pace.since_checkpoint_s > 60.0 * self.config.checkpoint_minutes
        if due or (every is not None and self.pace.step % every == 0):
            self.save()

    def _look(self) -> None:
        """Wait for the device: what the steps since the last look have come to.

        Raises:
            TrainingError: a loss, a gradient or the discriminator's gradient was not finite.
        """
        self.losses += self.outcomes.look()
        self.monitor.norm = self.outcomes.norm
        self.scale.look()
        self.stage.look()

    def save(self) -> None:
        """Copy the whole state and have it written; every worker calls this at the same step."""
        self._look()
        tensors = gather_state(self.engine, self.stage.net)
        self.pace.checkpointed()
        if self.workers.rank != 0:
            return
        tensors |= {f"ema/{name}": cpu_copy(value) for name, value in self.ema.state.items()}
        extra = self.stage.extra_state()
        tensors |= {f"extra/{name}": cpu_copy(value) for name, value in extra.items()}
        tensors["losses"] = torch.tensor(self.losses)
        state = {
            "elapsed_s": self.pace.elapsed_s,
            "examples": self.batching.examples,
            "num_workers": self.workers.world,
            "loss_scale": self.scale.state(),
        }
        self.writer.put(self.pace.step, tensors, state, self._probe())

    def _resume(self, found: Checkpoint) -> None:
        tensors = found.tensors()
        scatter_state(self.engine, self.stage.net, tensors)
        self._load_average(found)
        extra = {k[6:]: v for k, v in tensors.items() if k.startswith("extra/")}
        self.stage.load_extra(extra)
        self.scale.load(dict(found.state["loss_scale"]))
        self.losses = tensors["losses"].tolist()
        self.pace.resume(found.step, float(found.state["elapsed_s"]))
        log.info(
            "%s: resumed at step %d (written by %d workers, now %d)",
            self.config.stage, found.step, found.state["num_workers"], self.workers.world,
        )  # fmt: skip

    def _load_average(self, found: Checkpoint) -> None:
        tensors = found.tensors()
        self.ema.load({k[4:]: v for k, v in tensors.items() if k.startswith("ema/")})

    def _found(self) -> Checkpoint | None:
        """The checkpoint to go on from; all workers take the same."""
        if self.config.num_iterations == 0:
            return None
        found = newest_checkpoint(self.config)
        step = self.workers.first(-1.0 if found is None else float(found.step))
        if (found.step if found is not None else -1) != int(step):
            raise TrainingError(
                f"{self.config.work}: workers see different checkpoints; give a work folder that "
                "all of them share"
            )
        if found is not None:
            check_identity(found, self.config, self.stage.preset)
        return found

    def _probe(self) -> float | None:
        """Loss of the average on fixed examples; tells which checkpoint is the best."""
        examples = self.stage.draw_probe()
        if examples is None:
            return None
        with self.ema.applied(self.stage.net), torch.no_grad():
            loss = float(self.stage(examples))
        self.stage.trace.take()
        return loss

    def _draw(self, step: int, part: int) -> Any:
        """This worker's micro-batch."""
        return self.stage.draw(step, self.batching.indices(self.workers.rank, part))

    def _trial(self, micro: int) -> None:
        """Forward and backward pass of `micro` examples, for batch_size auto."""
        examples = self.stage.draw(0, range(micro))
        self.stage(examples).backward()
        self.stage.zero_grad(set_to_none=True)
        self.stage.trace.take()

    def _set_learning_rate(self) -> None:
        factor = learning_rate_factor(self.pace.step, self.pace.fraction, self.config.warmup)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * factor

    def _not_finite(self, what: str, value: float, step: int) -> TrainingError:
        return TrainingError(
            f"{self.config.stage}: {what} is {value} at step {step}; lower "
            f"learning_rate, or look for damaged cases in {self.config.data}; the last checkpoint "
            "is untouched"
        )


def _loss_scale(machine: MachineSettings, device: torch.device) -> LossScale:
    """ZeRO's own books need the scale on the host."""
    if device.type == "cuda" and machine.precision == "float16" and not machine.zero_stage:
        return LossScaleOnGpu(device)
    return LossScale(machine.precision)


def _prepare_memory(stage: StageModel, config: TrainConfig) -> None:
    """Put the stage on its device, and trade time for memory where that is asked for."""
    if config.use_gpu:
        stage.to(torch.device("cuda", torch.cuda.current_device()))
    if config.activation_checkpointing:
        stage.recompute_activations()
