"""Workers with a pulse and, where rows have no ledger of their own, with a book of tries.

`attended` makes of a worker's class one that Ray can hold the same way. Workers know nothing of it.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from engine.errors import RunError
from engine.parallel.rows.pulse import Pulse
from engine.parallel.rows.tries import TryBook
from engine.storage.files import PRIVATE_UMASK

Row = dict[str, Any]
Worker = type[Callable[[Row], Any]]


def attended(
    worker: Worker,
    job: str,
    disk: Path | None,
    tries: TryBook | None,
    private: bool = False,
) -> Worker:
    """A worker's class, with a pulse.

    Args:
        worker: called with a row, returns a status row or (as an asynchronous generator) yields it.
            With `tries`, it has a method `given_up(row, message)`, which makes the status row of a
            row that is not tried again.
        job: names the job whose driver listens to the pulse.
        disk: folder that the worker writes to, or None.
        tries: counts the workers that a row has killed; None where the rows have a ledger.
        private: whether only this user may read what the worker writes.
    """
    base: Any = worker

    class Attended(base):  # type: ignore[misc]
        def __init__(self, **settings: Any) -> None:
            if private:
                os.umask(PRIVATE_UMASK)
            self._pulse = Pulse(job, disk)
            super().__init__(**settings)

    if inspect.isasyncgenfunction(worker.__call__):

        async def stream(self: Any, row: Row) -> AsyncIterator[Row]:
            with self._pulse.row():
                async for status in base.__call__(self, row):
                    yield status

        Attended.__call__ = stream
    else:

        def call(self: Any, row: Row) -> Row:
            with self._pulse.row():
                return _guarded(base, self, row, tries)

        Attended.__call__ = call
    Attended.__name__ = Attended.__qualname__ = worker.__name__
    return Attended


def _guarded(base: Any, worker: Any, row: Row, tries: TryBook | None) -> Row:
    if tries is None:
        return base.__call__(worker, row)  # type: ignore[no-any-return]
    try:
        place = tries.begin(row)
    except RunError as error:
        return worker.given_up(row, str(error))  # type: ignore[no-any-return]
    status: Row = base.__call__(worker, row)
    tries.end(place)
    return status
