"""sha256 of files and of JSON-like values: what run.yaml, plans and commit records name.

Knows nothing of what they mean.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from engine.storage.checked_files import open_regular
from engine.storage.objects.path import ObjectPath
from engine.storage.places import Place


def hash_file(path: Place) -> str:
    """sha256 of a file, read in blocks; an object is read whole."""
    if isinstance(path, ObjectPath):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(value: Any) -> str:
    """sha256 of a JSON-like value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
