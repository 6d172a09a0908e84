"""A data set's own description, `dataset.json`: read with what editors and converters do to it.

A byte order mark is read over, UTF-16 (PowerShell's default) is read, and what is no JSON is
refused with the line to correct. What the keys mean is for the readers of each layout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import LayoutError

DESCRIPTION = "dataset.json"
_MAX_BYTES = 16 * 2**20

Description = Mapping[str, Any]


def has_description(root: Path) -> bool:
    """Whether a data set describes itself."""
    return (root / DESCRIPTION).is_file()


def read_description(path: Path) -> Description:
    """Read a `dataset.json`.

    Raises:
        LayoutError: missing, too big, not JSON, or no object at the top; names what to correct.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise LayoutError(f"{path}: over {_MAX_BYTES} bytes, no data set description")
        data = path.read_bytes()
        text = data.decode(json.detect_encoding(data))
        raw = json.loads(text.removeprefix("\ufeff"))
    except FileNotFoundError:
        raise LayoutError(f"{path}: missing; restore it, or name another layout") from None
    except json.JSONDecodeError as error:
        raise LayoutError(f"{path}: not valid JSON ({_cause(error)}); correct the file") from None
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise LayoutError(f"{path}: not valid JSON ({error}); correct the file") from None
    if not isinstance(raw, dict):
        raise LayoutError(f"{path}: the top level is no object; write {{...}}")
    return raw


def channel_names(path: Path, raw: Description) -> dict[int, str]:
    """What the data set calls its channels, by number; empty where it does not say.

    nnU-Net v2 says `channel_names`, nnU-Net v1 and the Decathlon say `modality`.

    Raises:
        LayoutError: neither an object nor a list, or keys that are no numbers.
    """
    names = raw.get("channel_names", raw.get("modality", {}))
    if isinstance(names, list):
        names = dict(enumerate(names))
    if isinstance(names, str):
        names = {0: names}
    if not isinstance(names, dict) or not all(str(key).isdecimal() for key in names):
        raise LayoutError(
            f'{path}: `channel_names` must be an object such as {{"0": "CT"}}; correct the file'
        )
    return {int(key): str(name) for key, name in names.items()}


def check_channel(path: Path, names: Mapping[int, str], channel: int) -> None:
    """A channel must be one that the description names; one without names allows any.

    Raises:
        LayoutError: it is not; names those there are.
    """
    if names and channel not in names:
        there = [str(number) for number in sorted(names)]
        named = ", ".join(names[number] for number in sorted(names))
        raise LayoutError(
            f"{path}: no channel {channel} (there are {there}: {named}); correct --channel"
        )


def check_labels(path: Path, raw: Description) -> None:
    """`labels` must be an object where it is given.

    Raises:
        LayoutError: it is not.
    """
    if not isinstance(raw.get("labels", {}), dict):
        raise LayoutError(f"{path}: `channel_names` and `labels` must be objects; correct the file")


def _cause(error: json.JSONDecodeError) -> str:
    """Python's own words say nothing of the commonest mistake, a comma too many."""
    before, after = error.doc[: error.pos].rstrip(), error.doc[error.pos :].lstrip()
    if before.endswith(",") and after[:1] in ("}", "]"):
        line = before.count("\n") + 1
        return f"a comma before {after[0]!r} in line {line}; delete the comma"
    return str(error)
