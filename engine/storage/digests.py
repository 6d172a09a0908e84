"""sha256 of files and of JSON-like values: what run.yaml, plans and commit records name.

Knows nothing of what they mean.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from engine.storage.backends.find import storage_at
from engine.storage.places import Place


def hash_file(path: Place) -> str:
    """sha256 of a file, read in blocks; an object is read whole."""
    return storage_at(path).digest()


def sha256_of(value: Any) -> str:
    """sha256 of a JSON-like value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
