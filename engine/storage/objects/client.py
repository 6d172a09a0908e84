"""Calls to an object store through fsspec: retried for a while, with errors that say what to do.

The only importer of fsspec. Endpoint, region and credentials come from the environment, from
fsspec's own configuration or from the machine's role, and are never kept, written or logged here.
Knows no format and no run.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

import fsspec
import fsspec.config

from engine.errors import StoreError, StoreUnreachableError
from engine.log import get_logger

log = get_logger(__name__)

T = TypeVar("T")

PATIENCE_S = 120.0
"""How long a store may fail to answer; the variable GEM3D_STORE_PATIENCE_S overrides it."""

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 10.0
_S3 = ("s3", "s3a")
_S3_SETTINGS = {  # one try a call: waiting and trying again is done here, for every kind of store
    "connect_timeout": 5,
    "read_timeout": 60,
    "retries": {"mode": "standard", "total_max_attempts": 1},
}
_WRONG_CALLS = (TypeError, AttributeError, NotImplementedError, AssertionError, KeyError)
_given_up: set[str] = set()


def call(url: str, work: Callable[[Any], T]) -> T:
    """Do something with a store, again and again while it does not answer.

    A store that was waited for in vain is asked only once by the next calls of this process, until
    it answers: a run whose store is gone ends soon.

    Args:
        url: of what it is done to, for the messages and for the kind of store.
        work: gets the fsspec file system; may be called several times.

    Raises:
        FileNotFoundError: the object is not there (the bucket is).
        FileExistsError: `work` wanted to create what is there.
        StoreUnreachableError: no answer for `PATIENCE_S`.
        StoreError: no such bucket, no credentials, not permitted, or no support for this store.
    """
    kind = url.partition("://")[0]
    filesystem = _filesystem(kind, url)
    deadline_s, wait_s = time.monotonic() + _patience_s(), _FIRST_WAIT_S
    while True:
        try:
            result = work(filesystem)
        except Exception as error:  # every store has kinds of its own
            _raise_if_final(error, url)
            if kind in _given_up or time.monotonic() + wait_s > deadline_s:
                _given_up.add(kind)
                raise StoreUnreachableError(
                    f"{url}: the object store does not answer ({_first_line(error)}); "
                    "check network and endpoint, and start the job again for the rest"
                ) from None
            log.debug("%s: %s; trying again", url, _first_line(error))
            time.sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(2.0 * wait_s, _LONGEST_WAIT_S)
        else:
            _given_up.discard(kind)
            return result


def _filesystem(kind: str, url: str) -> Any:
    """The process's file system object of a kind of store; fsspec keeps it."""
    options: dict[str, Any] = {"use_listings_cache": False}  # others write there, too
    if kind in _S3:
        own = fsspec.config.conf.get(kind, {}).get("config_kwargs", {})
        options["config_kwargs"] = {**_S3_SETTINGS, **own}
    try:
        filesystem = fsspec.filesystem(kind, **options)
    except ImportError:
        extra = "'gem3d-engine[s3]'" if kind in _S3 else f"fsspec's package for {kind}"
        raise StoreError(
            f"{url}: this kind of store needs another package; pip install {extra}",
            fault="machine",
        ) from None
    except ValueError:
        raise StoreError(
            f"{url}: {kind}:// is no kind of store that fsspec knows; use s3:// or a folder",
            fault="settings",
        ) from None
    if kind in _S3:
        filesystem.retries = 1
    return filesystem


def _raise_if_final(error: Exception, url: str) -> None:
    """Raise what waiting does not cure."""
    code = _code(error) or _code(error.__cause__)
    name = type(error).__name__
    if code == "NoSuchBucket":
        raise StoreError(
            f"{url}: there is no such bucket; create it, or correct the address", fault="store"
        ) from None
    if isinstance(error, FileNotFoundError | FileExistsError):
        raise error
    if name in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"):
        raise StoreError(
            f"{url}: no credentials for this store; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) for the job and for its workers",
            fault="store",
        ) from None
    if code == "RequestTimeTooSkewed":
        raise StoreError(
            f"{url}: this machine's clock differs too much from the store's; set it right (NTP) "
            "and start the job again",
            fault="machine",
        ) from None
    if isinstance(error, PermissionError):
        raise StoreError(
            f"{url}: the store refuses these credentials ({_first_line(error)}); check the key and "
            "that it may list, read, write and delete there",
            fault="store",
        ) from None
    if (
        code == "NotImplemented"
        or isinstance(error, _WRONG_CALLS)
        or name == "ParamValidationError"
    ):
        raise StoreError(
            f"{url}: not something this store can do ({name}: {_first_line(error)}); "
            "correct the address, or use a store that can create objects conditionally",
            fault="settings",
        ) from error


def _code(error: BaseException | None) -> str:
    """The store's own name of an error, where it has one."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return re.sub(r"//[^/@\s]+@", "//...@", line)  # an endpoint may hold a password


def _patience_s() -> float:
    return float(os.environ.get("GEM3D_STORE_PATIENCE_S") or PATIENCE_S)
