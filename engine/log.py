"""The engine's log: rooms write events to it, jobs decide who sees them.

Nothing in `engine/` prints. A room takes `log = get_logger(__name__)`; a job calls `show_log()`
once, and the lines come out on its stdout. Without a job nothing below WARNING is shown. Knows no
room.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from engine.errors import printable

_ROOT = "engine"
_FORMAT = "%(asctime)s %(message)s"


def get_logger(name: str) -> logging.Logger:
    """The logger of a module; `name` is its `__name__`, below `engine`."""
    return logging.getLogger(name)


def show_log(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Show the engine's log lines from `level` upwards on `stream` (stdout when None).

    A second call replaces the first, so that lines never come out twice.
    """
    root = logging.getLogger(_ROOT)
    for handler in list(root.handlers):
        root.removeHandler(handler)
    handler = _FlushingHandler(stream or sys.stdout)
    handler.setFormatter(_PrintableFormatter(_FORMAT, datefmt="%H:%M:%S"))
    root.addHandler(handler)
    root.setLevel(level)
    root.propagate = False


class _PrintableFormatter(logging.Formatter):
    """Spells out control characters: messages quote names of files, which may hold anything."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(printable(line) for line in super().format(record).splitlines())


class _FlushingHandler(logging.StreamHandler[TextIO]):
    """Flushes each line, so that a reader of a pipe sees progress when it happens."""

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        self.flush()
