"""Drives the real batcher, propagation and solvers over a fake denoiser."""

from collections.abc import Callable, Sequence

from torch import Tensor

from engine.sampling.batching.batcher import Batcher
from engine.sampling.config import SamplingConfig
from engine.sampling.diffusion.schedule import ScheduleConfig, make_schedule
from engine.sampling.make_solver import make_solver
from engine.sampling.propagation.inpainting import resampling_walk
from engine.sampling.propagation.volume_state import DenoiseItem, Denoising, VolumeState
from engine.sampling.propagation.windows import Window, WindowPlan

SHAPE = (2, 3, 3)
VP_SOLVERS = ("ddpm", "ddim", "dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "dpmpp_3m_sde", "unipc")
FLOW_SOLVERS = ("euler", "heun")
SOLVERS = VP_SOLVERS + FLOW_SOLVERS
Denoise = Callable[[Sequence[DenoiseItem]], list[Tensor]]


def denoising(
    solver: str, steps: int, conditioned: bool, num_resamples: int = 1, jump_length: int = 2
) -> Denoising:
    kind = "flow" if solver in FLOW_SOLVERS else "scaled_linear"
    schedule = make_schedule(
        ScheduleConfig(kind=kind, prediction_type="v", zero_terminal_snr=kind != "flow")
    )
    made = make_solver(SamplingConfig(solver=solver, num_inference_steps=steps), schedule)
    walk = resampling_walk(made.num_evaluations, jump_length, num_resamples)
    return Denoising(made, walk, conditioned)


class WatchedVolume(VolumeState):
    """Keeps what every window ended as, known slices included."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.landed: list[tuple[Window, Tensor, Tensor]] = []

    def land(self, window: Window, x: Tensor) -> None:
        before = self.latents[window.start : window.stop].clone()
        self.landed.append((window, x.clone(), before))
        super().land(window, x)


def run_volume(
    plan: WindowPlan,
    num_slices: int,
    how: Denoising,
    denoise: Denoise,
    *,
    side_by_side: bool = True,
    chained: bool = False,
    seed: int = 1,
) -> WatchedVolume:
    volume = WatchedVolume(0, "s", seed, (num_slices, *SHAPE), how, chained)
    batcher = Batcher(8, 1e9)
    batcher.add(0, plan, len(how.walk), 1.0, side_by_side)
    while batch := batcher.next_batch():
        items = [volume.show(job.window, job.evaluation) for job in batch]
        for job, x_0 in zip(batch, denoise(items), strict=True):
            volume.accept(job.window, job.evaluation, x_0)
        batcher.advance(batch)
    return volume
