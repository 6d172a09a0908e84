"""Places of runs and data: folders and files on disk, or names in an object store.

Both have the same methods as far as they are names; what can be done with them is the business of
`backends/`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, TypeAlias
from urllib.parse import unquote

from pydantic import PlainSerializer, PlainValidator
from tyro.constructors import PrimitiveConstructorSpec

from engine.errors import ConfigError
from engine.storage.objects.path import ObjectPath

Place: TypeAlias = Path | ObjectPath

_SQUEEZED = re.compile(r"^[a-z][a-z0-9+.-]+:/")  # what pathlib makes of an address
_PATTERN = re.compile(r"[\[\]*?]")  # tools of object stores take these for patterns of names


def as_place(value: object) -> Place:
    """A place from what a user writes: a path, `file://...`, or an address such as `s3://...`.

    Raises:
        ConfigError: the address has no bucket, leaves its place, is a pattern or holds credentials;
            or the value is of another type.
    """
    if isinstance(value, ObjectPath):
        return value
    if not isinstance(value, str | Path):
        raise ConfigError(f"{value!r} is neither a path nor an address")
    text = str(value)
    if "://" not in text:
        if _SQUEEZED.match(text):
            raise ConfigError(f"{text}: an address is given as text and not as a path: s3://...")
        return Path(value)
    kind, _, rest = text.partition("://")
    if kind == "file":
        return _local(text, rest)
    parts = rest.rstrip("/").split("/")
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*", kind) or not all(parts) or {".", ".."} & set(parts):
        raise ConfigError(f"{text}: not the address of a place; write s3://BUCKET/NAME")
    if "@" in parts[0]:
        raise ConfigError(
            f"{kind}://...@{parts[0].rpartition('@')[2]}: an address must not hold credentials; "
            "put them in the environment"
        )
    if _PATTERN.search(rest) or not text.isprintable():
        raise ConfigError(
            f"{text!r}: [ ] * ? and control characters are not for addresses, where they could "
            "stand for other names, too; choose a plain name (a local folder may have them)"
        )
    return ObjectPath(f"{kind}://{'/'.join(parts)}")


def _local(text: str, rest: str) -> Path:
    """The path of a `file://` address; only `%` has a meaning in it."""
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise ConfigError(f"{text}: names the host {host!r}; write file:///FOLDER, or the path")
    return Path(unquote(f"/{path}"))


PlaceField = Annotated[
    Place,
    PlainValidator(as_place),
    PlainSerializer(str, when_used="json"),
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH|URL",
        instance_from_str=lambda texts: as_place(texts[0]),
        is_instance=lambda value: isinstance(value, Path | ObjectPath),
        str_from_instance=lambda place: [str(place)],
    ),
]
"""A setting that holds a place, in YAML and on the command line."""
