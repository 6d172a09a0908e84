"""Every solver by its name. A new one is a file of this room and a line here. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from engine.errors import ConfigError
from engine.sampling.diffusion.schedule_config import ScheduleKind
from engine.sampling.solvers import ancestral, dpmpp, flow, unipc
from engine.sampling.solvers.state import Method

METHODS: dict[str, Method] = {
    method.name: method for room in (ancestral, dpmpp, unipc, flow) for method in room.METHODS
}
DEFAULT_SOLVER, DEFAULT_FLOW_SOLVER = "dpmpp_2m", "euler"

if TYPE_CHECKING:
    SolverName = str
else:
    SolverName = Literal[tuple(METHODS)]


def default_solver(kind: ScheduleKind) -> str:
    """The usual solver for a kind of schedule."""
    return DEFAULT_FLOW_SOLVER if kind == "flow" else DEFAULT_SOLVER


def check_solver(name: str, kind: ScheduleKind) -> None:
    """Refuse a solver that cannot follow the schedule.

    Raises:
        ConfigError: it is not for schedules of this kind; names those that are.
    """
    if kind in METHODS[name].schedules:
        return
    able = ", ".join(other for other, method in METHODS.items() if kind in method.schedules)
    raise ConfigError(
        f"solver {name} follows {' and '.join(METHODS[name].schedules)} schedules, but these "
        f"weights were trained on a {kind} schedule; use one of {able}"
    )
