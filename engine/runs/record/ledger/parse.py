"""Records of a run, read with one message for whatever is wrong with them."""

from __future__ import annotations

from typing import TypeVar

from engine.errors import StoreError, StoreUnreachableError, fault_of
from engine.runs.record.records import Attempt, Commit
from engine.storage.checked_files import parse_model, read_bytes
from engine.storage.places import Place

R = TypeVar("R", Commit, Attempt)


def read_record(kind: type[R], path: Place, data: bytes | None = None) -> R:
    """A record from its place, or from bytes that were read there.

    Raises:
        FileNotFoundError: there is none.
        StoreError: it cannot be read or understood.
        StoreUnreachableError: nobody can tell.
    """
    try:
        return parse_model(kind, path, read_bytes(path) if data is None else data)
    except (FileNotFoundError, StoreUnreachableError):
        raise
    except OSError as error:
        reason = error.strerror or str(error).removeprefix(f"{path}: ")
        raise StoreError(
            f"{path}: cannot read this {kind.__name__.lower()} record ({reason}); "
            "remove it, and the next run makes the sample anew",
            fault=fault_of(error),
        ) from None
