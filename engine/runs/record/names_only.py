"""Texts and settings without the folders in which somebody keeps things.

Reports, failures and run.yaml are handed on. Folders are named after people (`/home/j.doe`,
`patients/Mueller_1961`), so that only the last name of a path is kept; digests say which file it
was. What a job says on the terminal keeps whole paths.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

_PATH = re.compile(r"(?<![\w.:/~-])~?/(?:[^\s/:;,'\"()<>\[\]]+/)+(?=[^\s/:;,'\"()<>\[\]])")


def without_folders(text: str, folders: Iterable[object] = ()) -> str:
    """A text in which absolute paths are their last names.

    Args:
        text: for example an error message.
        folders: those that are known; the only way to tell a path with spaces from words.

    >>> without_folders("/home/j.doe/patients/ref.nii.gz: truncated; copy it again")
    'ref.nii.gz: truncated; copy it again'
    """
    known = sorted({str(folder) for folder in folders}, key=len, reverse=True)
    for folder in known:
        if folder.startswith("/") and len(folder) > 1:
            text = text.replace(folder, PurePath(folder).name)
    return _PATH.sub("", text)


def names_only(value: Any) -> Any:
    """Settings in which absolute paths are their last names.

    >>> names_only({"slices": ["/home/j.doe/ref.nii.gz", "pat7:41"]})
    {'slices': ['ref.nii.gz', 'pat7:41']}
    """
    if isinstance(value, dict):
        return {key: names_only(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [names_only(inner) for inner in value]
    if isinstance(value, str) and value.startswith(("/", "~/", "../")):
        return PurePath(value).name
    return value


def worker_name() -> str:
    """A name for this process that is the same for all its work, and tells no host."""
    who = f"{socket.gethostname()}:{os.getpid()}"
    return f"worker-{hashlib.sha256(who.encode()).hexdigest()[:8]}"
