"""Errors that a user can act on: each message says what is wrong, where, and what to do.

Every error takes one message argument, so that it survives pickling between Ray processes, and
inherits from the built-in kind that callers would expect as well. It also says whose fault it is
(`fault`) and what to do about it (`remedy`), so that nobody decides by the words of a message.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Fault = Literal["data", "settings", "machine", "store"]
"""Where the cause of an error lies: in what is worked on, in what was asked for, in this computer
and its disks, or in an object store and who else works there."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
_BROKEN = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EMFILE, errno.ENFILE)
_LINKS = 8  # of a chain of errors that are looked at


class EngineError(Exception):
    """Base of everything the engine refuses on purpose.

    Args:
        message: what is wrong, where; what to do about it after the last `; `.
        fault: where the cause lies, where that is not what the kind says.

    >>> StoreError("a: torn; make it again").remedy
    'make it again'
    """

    fault: Fault = "data"

    def __init__(self, message: str = "", *, fault: Fault | None = None) -> None:
        super().__init__(message)
        if fault is not None:
            self.fault = fault

    @property
    def remedy(self) -> str:
        """What to do about it; empty where the message does not say."""
        _, found, remedy = str(self).rpartition("; ")
        return remedy if found else ""


class ConfigError(EngineError, ValueError):
    """A setting is unknown, of the wrong type, or impossible together with another."""

    fault: Fault = "settings"


class VolumeError(EngineError, ValueError):
    """A volume (image or mask) is malformed; names the file and the remedy."""


class LayoutError(EngineError, ValueError):
    """A data set folder does not have the layout it claims."""


class StoreError(EngineError, OSError):
    """Stored data is missing, damaged or cannot be written."""


class MalformedFileError(StoreError, ValueError):
    """A file is not what it should be: a pipe, too large, not UTF-8, not JSON, of another kind."""


class StoreUnreachableError(StoreError):
    """An object store does not answer: nothing is known about what it holds."""

    fault: Fault = "store"


class WeightsError(EngineError, ValueError):
    """Model weights are missing, of another architecture, or of an unsafe format."""

    fault: Fault = "settings"


class SamplingError(EngineError, RuntimeError):
    """Sampling a volume went wrong (non-finite latents, for example)."""


class TrainingError(EngineError, RuntimeError):
    """Training cannot start or cannot go on."""

    fault: Fault = "settings"


class RunError(EngineError, RuntimeError):
    """A run folder refuses the job (other configuration, another job at work, failed samples)."""

    fault: Fault = "settings"


class ClusterLostError(RunError):
    """The Ray cluster, or all workers of a job, went away; what is done stays, the rest is not."""

    fault: Fault = "machine"


def fault_of(error: BaseException) -> Fault:
    """Where the cause of any error lies, by its kind and by the errors that led to it.

    >>> fault_of(OSError(errno.ENOSPC, "No space left on device"))
    'machine'
    """
    for link in _chain(error):
        if isinstance(link, EngineError) and link.fault in ("machine", "store"):
            return link.fault
        if isinstance(link, OSError) and link.errno in (*_NO_ROOM, *_BROKEN):
            return "machine"
    return error.fault if isinstance(error, EngineError) else "data"


def remedy_of(error: BaseException) -> str:
    """What a person can do about any error; empty where it is not known."""
    for link in _chain(error):
        if isinstance(link, MemoryError) or type(link).__name__ == "OutOfMemoryError":  # torch's
            return MORE_MEMORY
        if isinstance(link, OSError) and link.errno in _NO_ROOM:
            return "free disk space, or make the run folder writable, and start the job again"
        if isinstance(link, OSError) and link.errno in _BROKEN:
            return "look at that computer's disks, mounts and limits, and start the job again"
    return error.remedy if isinstance(error, EngineError) else ""


MORE_MEMORY = "give workers more memory, or lower sampling.memory_mb, decode_batch or rows_at_once"
"""What to do about a worker that ran out of memory, or was killed for it."""


@contextmanager
def os_refusal(kind: type[EngineError], what: str, remedy: str) -> Iterator[None]:
    """Turn what the operating system refuses into an error of a kind, with its fault.

    Args:
        kind: of the error.
        what: cannot be done, and where: `PATH: cannot be written`.
        remedy: what to do about it.

    >>> with os_refusal(ConfigError, "a.yaml: cannot be read", "give another"):
    ...     open("/nowhere/a.yaml")
    Traceback (most recent call last):
    engine.errors.ConfigError: a.yaml: cannot be read (No such file or directory); give another
    """
    try:
        yield
    except EngineError:
        raise
    except OSError as error:
        message = f"{what} ({error.strerror or error}); {remedy}"
        raise kind(
            message, fault=fault_of(error) if fault_of(error) == "machine" else None
        ) from None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it was raised from or in place of."""
    link: BaseException | None = error
    for _ in range(_LINKS):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def one_line(error: BaseException) -> str:
    """What an error says, fit for a terminal: one line, control characters spelled out.

    Messages quote file names and keys, which may hold anything.
    """
    text = str(error) or type(error).__name__
    return printable(" ".join(part.strip() for part in text.splitlines()))


def printable(text: str) -> str:
    r"""Text fit for a terminal: control characters and bytes that are not UTF-8 spelled out.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
