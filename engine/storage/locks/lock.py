"""What every lock of a place is: taken on entering, let go on leaving, numbered, checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Lock(ABC):
    """Holds a place for this process, for as long as it is entered.

    Raises (on entering):
        RunError: another job holds it, or it cannot be written to.
    """

    _number = 0

    @property
    def number(self) -> int:
        """Of this holding; higher than of every one before."""
        return self._number

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()

    @abstractmethod
    def acquire(self) -> None:
        """Take the lock.

        Raises:
            RunError: another job holds it, or it cannot be written to.
            StoreError: the place cannot be used.
        """

    @abstractmethod
    def check(self) -> None:
        """Make sure that the lock is still ours.

        Raises:
            RunError: another job took it over, because we had been silent too long.
        """

    @abstractmethod
    def release(self) -> None:
        """Let go."""
