"""Keeps from the user what Ray says to itself: lines that name nothing a user could act on.

Ray's core announces its log level at every start. Ray Train's cleaner asks for a dashboard, which a
local Ray has not, once a second, with a traceback where two Rays run side by side; the engine ends
its Ray itself. Both go past Python's logging. Everything else is shown as it is.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

_GREETING = "Set ray log level from environment variable"
_CLEANER = "PlacementGroupCleaner"


@contextmanager
def without_greeting() -> Iterator[None]:
    """Hold back what this process writes to stderr while Ray starts, and show it without noise.

    Ray's core writes to the file descriptor itself. Where stderr is no real file, nothing is done.
    """
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, ValueError):
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            for line in held.read().decode("utf-8", "replace").splitlines(keepends=True):
                if _GREETING not in line:
                    sys.stderr.write(line)


def show_workers_without_noise() -> None:
    """Filter what Ray brings from its workers' output; called after Ray has started."""
    dispatcher: Any = ray._private.ray_logging.global_worker_stdstream_dispatcher
    with dispatcher._lock:
        dispatcher.handlers = [(name, _filtered(show)) for name, show in dispatcher.handlers]


def _filtered(show: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def handle(data: dict[str, Any]) -> None:
        lines = [line for line in data["lines"] if _GREETING not in line]
        if lines and data.get("actor_name") != _CLEANER:
            show({**data, "lines": lines})

    return handle
