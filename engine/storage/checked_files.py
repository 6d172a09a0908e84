"""Reading small files that may be anything: of bounded size, regular, UTF-8, JSON of bounded depth.

A run folder may come from elsewhere, and a record in it may be a named pipe, a device, a hundred
megabytes, or JSON that is nested a million times. All of the engine's own JSON is read here, so
that each of these is one error that names the file and hangs or fills nothing. Knows no format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from engine.errors import MalformedFileError
from engine.storage.backends.find import storage_at
from engine.storage.places import Place

MAX_RECORD_BYTES = 16 << 20
"""Of a record of one thing: a commit, an attempt, settings, a summary."""
MAX_LIST_BYTES = 512 << 20
"""Of a list over a whole data set (a hundred thousand cases take about 100 MB)."""
MAX_LINE_BYTES = 4 << 20
"""Of one line of a list."""
MAX_DEPTH = 64
"""Of lists and objects inside each other."""

M = TypeVar("M", bound=BaseModel)


def read_bytes(place: Place, max_bytes: int = MAX_RECORD_BYTES) -> bytes:
    """A whole file or object of bounded size.

    Raises:
        FileNotFoundError: there is none.
        MalformedFileError: it is no regular file, or larger than `max_bytes`.
        OSError: it cannot be read.
    """
    return storage_at(place).read_bytes(max_bytes)


def read_text(place: Place, max_bytes: int = MAX_RECORD_BYTES) -> str:
    """A whole file as UTF-8; see `read_bytes` for what is raised."""
    try:
        return read_bytes(place, max_bytes).decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedFileError(f"{place}: not UTF-8") from None


def read_json(place: Place, max_bytes: int = MAX_RECORD_BYTES) -> Any:
    """Plain values of a JSON file; see `read_bytes` and `parse_json` for what is raised."""
    text = read_text(place, max_bytes)
    try:
        return parse_json(text)
    except ValueError as error:
        raise MalformedFileError(f"{place}: {error}") from None


def read_model(kind: type[M], place: Place, max_bytes: int = MAX_RECORD_BYTES) -> M:
    """A pydantic model from a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        MalformedFileError: it is no regular file, too large, not JSON, or not of this kind.
        OSError: it cannot be read.
    """
    return parse_model(kind, place, read_bytes(place, max_bytes))


def parse_model(kind: type[M], place: Place, data: bytes) -> M:
    """A pydantic model from the JSON that was read from a place.

    Raises:
        MalformedFileError: not JSON in UTF-8, or not of this kind.
    """
    try:
        return kind.model_validate(parse_json(data.decode("utf-8")))
    except UnicodeDecodeError:
        raise MalformedFileError(f"{place}: not UTF-8") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])[:80] or "(top level)"
        raise MalformedFileError(f"{place}: `{key}`: {first['msg'][:200]}") from None
    except ValueError as error:
        raise MalformedFileError(f"{place}: {error}") from None


def iter_lines(place: Place, max_bytes: int = MAX_LINE_BYTES) -> Iterator[str]:
    """The lines of a file of any length, each of bounded size; what is not UTF-8 is replaced.

    Raises:
        FileNotFoundError: there is no such file.
        MalformedFileError: it is no regular file, or a line is longer than `max_bytes`.
        OSError: it cannot be read.
    """
    with storage_at(place).open() as file:
        while line := file.readline(max_bytes + 1):
            if len(line) > max_bytes:
                raise MalformedFileError(f"{place}: a line of more than {max_bytes} bytes")
            yield line.decode(errors="replace")


def parse_json(text: str, max_depth: int = MAX_DEPTH) -> Any:
    """Plain values from JSON.

    Raises:
        ValueError: not JSON, nested deeper than `max_depth`, or with NaN or infinity, which are
            not JSON.
    """
    try:
        raw = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error})") from None
    level = [raw]
    for _ in range(max_depth + 1):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return raw
    raise ValueError("nested too deeply")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
