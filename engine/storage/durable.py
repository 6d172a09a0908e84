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

from engine.errors import EngineError, MalformedFileError, StoreError, fault_of
from engine.storage.disk_files import sync_folder
from engine.storage.places import Place

_OLD = "replaced"


@contextmanager
def store_writing(path: Path, staged: Path) -> Iterator[None]:
    """Turn errors of writing `path` into a StoreError, and leave nothing of `staged` behind."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise StoreError(
            f"{path}: cannot be written ({error}); check free space and permissions",
            fault=fault_of(error),
        ) from None


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A staged folder to fill, which then takes the place of `path`: all of it or nothing.

    Raises:
        StoreError: it cannot be written.
    """
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    with store_writing(path, staged):
        finish_replacing(path)
        yield staged
        flush_tree(staged)
        replace_folder(staged, path)


def replace_folder(staged: Path, path: Path) -> None:
    """Let a flushed folder take the place of another; a power cut leaves one of them whole.

    The old folder is renamed, then the new one; only when that is on the disk is the old one
    deleted. `finish_replacing` puts it back when the second rename never came.

    Raises:
        OSError: it cannot be renamed.
    """
    old = path.with_name(f".{path.name}.{_OLD}")
    if path.exists():
        if old.exists():
            shutil.rmtree(old)  # of an earlier time; `path` is whole
        path.rename(old)
    try:
        staged.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def finish_replacing(path: Path) -> None:
    """Put back the folder that was taken away for another one which never came."""
    old = path.with_name(f".{path.name}.{_OLD}")
    if not old.is_dir():
        return
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.rename(path)


def sync_file(path: Path) -> None:
    """A file's bytes down to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
        raise StoreError(
            f"{path}: damaged ({type(error).__name__}: {error}); {remedy}", fault=fault_of(error)
        ) from None


def flush_tree(path: Path) -> None:
    """Everything under `path` down to the disk: files first, then the folders that name them."""
    entries = sorted(path.rglob("*"), reverse=True)
    for entry in [*entries, path, path.parent]:
        sync_file(entry)
