"""What every folder on disk needs: bytes that reach the disk, and errors that a user can read.

Knows no format.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import EngineError, MalformedFileError, StoreError
from engine.storage.places import Place


@contextmanager
def store_writing(path: Path, staged: Path) -> Iterator[None]:
    """Turn errors of writing `path` into a StoreError, and leave nothing of `staged` behind."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise StoreError(
            f"{path}: cannot be written ({error}); check free space and permissions"
        ) from None


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A staged folder to fill, which then takes the place of `path`: all of it or nothing.

    Raises:
        StoreError: it cannot be written.
    """
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    with store_writing(path, staged):
        yield staged
        flush_tree(staged)
        if path.exists():
            shutil.rmtree(path)
        staged.rename(path)


@contextmanager
def store_reading(path: Place, remedy: str) -> Iterator[None]:
    """Turn whatever goes wrong with reading `path` into a StoreError that ends with `remedy`."""
    try:
        yield
    except MalformedFileError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise StoreError(f"{path}: damaged ({reason}); {remedy}") from None
    except EngineError:
        raise
    except FileNotFoundError:
        raise StoreError(f"{path}: not there; check the path, or {remedy}") from None
    except Exception as error:  # zarr, its codecs and json each raise kinds of their own
        raise StoreError(f"{path}: damaged ({type(error).__name__}: {error}); {remedy}") from None


def flush_tree(path: Path) -> None:
    """Everything under `path` down to the disk: files first, then the folders that name them."""
    entries = sorted(path.rglob("*"), reverse=True)
    for entry in [*entries, path, path.parent]:
        handle = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
