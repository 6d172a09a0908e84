"""Which windows run next: the schedule of many volumes on one device.

Knows integers and names only: no torch, no Ray, no model. `loop.py` asks for a batch, runs it,
and reports back. The life of a volume:

1. `add`: it waits.
2. Admitted, when its memory fits the budget beside those already there (the first always fits).
3. Its first window is in batches until its last evaluation.
4. Its chains UP and DOWN each have one window in flight; a window starts when the one before it in
   its chain is whole. Chains of one batch may stand at different steps.
5. Its last window is done: it leaves, and its memory is free for the next.

Volumes admitted first are served first, so that they end, and free their memory, first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from engine.sampling.propagation.windows import Window, WindowPlan

WELL_FILLED = 0.7  # of a size: from there on a padded batch costs less than two smaller ones


@dataclass(frozen=True)
class Job:
    """One evaluation of the network for one window.

    Attributes:
        volume: key of the volume, as given to `add`.
        window: its slices.
        evaluation: how many evaluations of this window came before.
    """

    volume: int
    window: Window
    evaluation: int


@dataclass
class _Chain:
    """Windows that wait for each other; the head is the one in flight."""

    windows: deque[Window]
    evaluation: int = 0


@dataclass
class _Volume:
    key: int
    plan: WindowPlan
    num_evaluations: int
    cost_mb: float
    side_by_side: bool
    chains: list[_Chain] = field(default_factory=list)

    def start(self) -> None:
        self.chains = [_Chain(deque([self.plan.first]))]

    def propagate(self) -> None:
        """The first window is whole: its two neighbours may start."""
        up, down = self.plan.up, self.plan.down
        parts = [up, down] if self.side_by_side else [(*up, *down)]
        self.chains = [_Chain(deque(part)) for part in parts if part]

    def jobs(self) -> Iterator[Job]:
        for chain in self.chains:
            yield Job(self.key, chain.windows[0], chain.evaluation)


class Batcher:
    """Fills batches of windows from many volumes under a memory budget.

    Args:
        max_windows: most windows a batch.
        memory_mb: budget for what admitted volumes hold (latents, conditions).
        period: with feature reuse between steps, evaluations at a multiple of it are full ones and
            share no batch with the others; 1 without.
        sizes: numbers of windows, ascending, that the device computes; others cost as much as the
            next larger one. Empty where every number has its own cost.
    """

    def __init__(
        self,
        max_windows: int,
        memory_mb: float,
        period: int = 1,
        sizes: Sequence[int] = (),
    ) -> None:
        assert max_windows >= 1 and period >= 1
        self._sizes = tuple(sizes)
        self.max_windows, self.memory_mb, self.period = max_windows, memory_mb, period
        self._waiting: deque[_Volume] = deque()
        self._admitted: dict[int, _Volume] = {}

    def add(
        self,
        volume: int,
        plan: WindowPlan,
        num_evaluations: int,
        cost_mb: float,
        side_by_side: bool = True,
    ) -> None:
        """Queue a volume under a new key.

        Args:
            volume: key, not in use.
            plan: its windows.
            num_evaluations: of the network, a window.
            cost_mb: memory it holds from admission to its end.
            side_by_side: UP and DOWN at once (the engine) or one after the other (reference).
        """
        assert volume not in self._admitted
        self._waiting.append(_Volume(volume, plan, num_evaluations, cost_mb, side_by_side))

    @property
    def admitted(self) -> tuple[int, ...]:
        """Keys of the volumes in work, oldest first."""
        return tuple(self._admitted)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to do."""
        return not self._waiting and not self._admitted

    @property
    def wants_more(self) -> bool:
        """Whether a volume added now would be started at once."""
        return not self._waiting and self._num_jobs() < self.max_windows and self._has_room(0.0)

    def next_batch(self) -> list[Job]:
        """Jobs to run together: windows of one size, in order of admission; empty when idle."""
        self._admit()
        jobs = [job for volume in self._admitted.values() for job in volume.jobs()]
        if not jobs:
            return []
        kind = self._kind(jobs[0])
        alike = [job for job in jobs if self._kind(job) == kind][: self.max_windows]
        return alike[: _well_filled(len(alike), self._sizes)]

    def advance(self, batch: Sequence[Job]) -> tuple[list[Job], list[int]]:
        """Record that every job of `batch` has run.

        Returns:
            The jobs that were the last of their window, and the volumes that are now whole; these
            have left.
        """
        ended = [job for job in batch if self._step(job)]
        whole = [key for key, volume in self._admitted.items() if not volume.chains]
        for key in whole:
            del self._admitted[key]
        return ended, whole

    def drop(self, volume: int) -> None:
        """Forget a volume that failed."""
        self._admitted.pop(volume, None)

    def halve(self) -> bool:
        """After running out of memory: batches of half the size; False when one is the limit."""
        if self.max_windows == 1:
            return False
        self.max_windows //= 2
        return True

    def _step(self, job: Job) -> bool:
        volume = self._admitted[job.volume]
        chain = next(c for c in volume.chains if c.windows[0] == job.window)
        chain.evaluation += 1
        if chain.evaluation < volume.num_evaluations:
            return False
        chain.windows.popleft()
        chain.evaluation = 0
        if job.window == volume.plan.first:
            volume.propagate()
        else:
            volume.chains = [c for c in volume.chains if c.windows]
        return True

    def _admit(self) -> None:
        while self._waiting and self._has_room(self._waiting[0].cost_mb):
            if self._num_jobs() >= self.max_windows:
                return
            volume = self._waiting.popleft()
            volume.start()
            self._admitted[volume.key] = volume

    def _has_room(self, cost_mb: float) -> bool:
        held = sum(volume.cost_mb for volume in self._admitted.values())
        return not self._admitted or held + cost_mb <= self.memory_mb

    def _num_jobs(self) -> int:
        return sum(len(volume.chains) for volume in self._admitted.values())

    def _kind(self, job: Job) -> tuple[int, bool]:
        return job.window.size, job.evaluation % self.period == 0


def _well_filled(num: int, sizes: Sequence[int]) -> int:
    """How many of `num` windows to run: all, unless most of the next size would stay empty."""
    larger = [size for size in sizes if size >= num]
    smaller = [size for size in sizes if size <= num]
    if not larger or not smaller or num >= WELL_FILLED * larger[0]:
        return num
    return smaller[-1]
