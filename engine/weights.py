"""Where the engine meets weights files: what `models` refuses becomes the engine's own error.

Imports no network, so that planning may read a manifest without torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import WeightsError
from models.errors import WeightsFileError
from models.weights import manifest
from models.weights.manifest import Manifest


@contextmanager
def weights_errors() -> Iterator[None]:
    """Inside it, files that `models` refuses are a `WeightsError` with the same message.

    Raises:
        WeightsError: instead of `WeightsFileError`.
    """
    try:
        yield
    except WeightsFileError as error:
        raise WeightsError(str(error)) from None


def read_manifest(weights: Path) -> Manifest:
    """What a weights folder holds.

    Raises:
        WeightsError: its config.json is missing or not understood.
    """
    with weights_errors():
        return manifest.read_manifest(weights)
