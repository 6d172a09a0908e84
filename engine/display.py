"""Standard output and errors that cannot stop a job: the pipe, terminal or disk may go away.

`job | head` closes the pipe, a terminal is closed, a log's disk is full: what a job still has to
say is dropped then, and its work and exit code stay what they are. Knows no job.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class LastingStream:
    """A text stream whose writes never raise; after the first that fails, text is dropped.

    Attributes:
        error: why it went away; None as long as it is there.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        """Write, or drop."""
        if self.error is None:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self._write_plain(text)
            except (OSError, ValueError) as error:  # ValueError: closed
                self.error = error
        return len(text)

    def flush(self) -> None:
        """Flush, or drop."""
        if self.error is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self.error = error

    def _write_plain(self, text: str) -> None:
        """In a terminal of few letters, what it has no letter for is spelled out."""
        encoding = self._stream.encoding or "ascii"
        try:
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError) as error:
            self.error = error

    def settle(self) -> None:
        """Let the interpreter's own last flush succeed, which would end in exit code 120."""
        self.flush()
        if self.error is None:
            return
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lasting_output() -> Iterator[None]:
    """`sys.stdout` and `sys.stderr` as `LastingStream`s for a while."""
    before = sys.stdout, sys.stderr
    # a process may be started without either
    lasting = [LastingStream(s) if s is not None else None for s in before]
    sys.stdout, sys.stderr = (new or old for new, old in zip(lasting, before, strict=True))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in lasting:
            if stream is not None:
                stream.settle()
