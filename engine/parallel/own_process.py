"""A function in a short-lived process of its own, so that what it imports and reads is not kept.

The driver of a run lives for days and needs no networks and no pictures; what does (a look at the
weights' architecture, the report's pictures) is done here and leaves nothing behind in its memory.
"""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar

from engine.errors import RunError

P = ParamSpec("P")
T = TypeVar("T")


def in_own_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a new process and wait for what it returns.

    Args:
        function: of a module; it, its arguments and its result are pickled.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Raises:
        RunError: the process was killed, for example for memory.
        Exception: what the function raised.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, args, kwargs), daemon=True)
    process.start()
    sender.close()
    try:
        error, result = receiver.recv()
    except EOFError:
        process.join()
        raise RunError(
            f"{function.__name__}: its process ended with code {process.exitcode}; it may have "
            "been killed for memory: free some, and start the job again"
        ) from None
    finally:
        receiver.close()
    process.join()
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]  # it came through a pipe


def _call(sender: Connection, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    answer: tuple[Exception | None, Any]
    try:
        answer = (None, function(*args, **kwargs))
    except Exception as error:
        answer = (error, None)
    sender.send(answer)
