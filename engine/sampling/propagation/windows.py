"""Which slices are made together, and which are known by then.

The first window holds the start; chain UP continues behind its last slice, chain DOWN before its
first. Every slice is made exactly once, for every Z, n, h and start, but for those that are given
from the beginning. Pure integers: no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from engine.errors import ConfigError


@dataclass(frozen=True)
class Window:
    """Slices `start <= z < stop`, of which the `known` are given and the others made.

    Attributes:
        start: first z.
        stop: one past the last z.
        known: z of every slice that is given, or that an earlier window of the chain has made, at
            its true place.
    """

    start: int
    stop: int
    known: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Number of slices."""
        return self.stop - self.start

    @property
    def made(self) -> tuple[int, ...]:
        """Z of the slices that this window makes."""
        given = set(self.known)
        return tuple(z for z in range(self.start, self.stop) if z not in given)

    @property
    def known_rows(self) -> tuple[int, ...]:
        """Indices of the known slices inside the window."""
        return tuple(z - self.start for z in self.known)


@dataclass(frozen=True)
class WindowPlan:
    """All windows of a volume: the first, then two chains that do not depend on each other."""

    first: Window
    up: tuple[Window, ...]
    down: tuple[Window, ...]

    @property
    def windows(self) -> tuple[Window, ...]:
        """In the order UP then DOWN."""
        return (self.first, *self.up, *self.down)

    @property
    def joins(self) -> tuple[int, ...]:
        """Z such that slices z - 1 and z were made in different windows."""
        up, down = ([w.made for w in chain if w.made] for chain in (self.up, self.down))
        ends = {min(made) for made in up} | {max(made) + 1 for made in down}
        return tuple(sorted(ends))


def plan_windows(
    num_slices: int, window: int, overlap: int, start: int, given: Collection[int] = ()
) -> WindowPlan:
    """Plan the windows of a volume.

    Ten slices in windows of four that share one, the first at slice 3. UP makes 7, 8, 9; DOWN makes
    2, 1, 0 and knows slice 3.

    >>> plan = plan_windows(num_slices=10, window=4, overlap=1, start=3)
    >>> [(w.start, w.stop, w.known) for w in plan.windows]
    [(3, 7, ()), (6, 10, (6,)), (0, 4, (3,))]
    >>> plan.joins
    (3, 7)

    Args:
        num_slices: Z.
        window: n. Volumes with Z < n are one window of Z slices.
        overlap: h, known slices at a window's edge; a window shifted back at the volume's end has
            more, and pins every one of them.
        start: z where the first window should start; moved inwards where it does not fit.
        given: z of slices that are known from the beginning; no window makes them.

    Raises:
        ConfigError: Z below 1, n below 2, h below 1 or not below n.
    """
    if num_slices < 1 or window < 2:
        raise ConfigError(f"{num_slices} slices in windows of {window}: need at least 1 and 2")
    if not 1 <= overlap < window:
        raise ConfigError(f"overlap {overlap}: need 1 <= overlap < window ({window})")
    size = min(window, num_slices)
    low = max(0, min(start, num_slices - size))
    first = Window(low, low + size)
    up = _chain_up(first.stop, num_slices, size, overlap)
    down = _chain_down(low, size, overlap, num_slices)
    chains = (tuple(_with_given(window, given) for window in chain) for chain in (up, down))
    return WindowPlan(_with_given(first, given), *chains)


def _with_given(window: Window, given: Collection[int]) -> Window:
    inside = {z for z in given if window.start <= z < window.stop}
    return replace(window, known=tuple(sorted(inside | {*window.known}))) if inside else window


def runs(places: Sequence[int]) -> list[tuple[int, int]]:
    """Increasing integers as ranges.

    >>> runs((2, 3, 4, 9))
    [(2, 5), (9, 10)]
    """
    found: list[tuple[int, int]] = []
    for place in places:
        if found and found[-1][1] == place:
            found[-1] = (found[-1][0], place + 1)
        else:
            found.append((place, place + 1))
    return found


def _chain_up(end: int, num_slices: int, size: int, overlap: int) -> tuple[Window, ...]:
    """Windows behind slice `end - 1`; the last is shifted back to fit."""
    windows = []
    while end < num_slices:
        start = min(end - min(overlap, size - 1), num_slices - size)
        windows.append(Window(start, start + size, tuple(range(start, end))))
        end = start + size
    return tuple(windows)


def _chain_down(begin: int, size: int, overlap: int, num_slices: int) -> tuple[Window, ...]:
    """Windows before slice `begin`: the mirror image of a chain UP."""
    mirrored = _chain_up(num_slices - begin, num_slices, size, overlap)
    return tuple(
        Window(
            num_slices - w.stop,
            num_slices - w.start,
            tuple(sorted(num_slices - 1 - z for z in w.known)),
        )
        for w in mirrored
    )
