"""torch.compile of regions: small functions of tensors, compiled once for all shapes and shared.

What a compiler makes stays on the disk, where torch and Triton find it by card, version and code: a
second start takes seconds. Compiling never ends a run; what fails goes on uncompiled.
"""

from __future__ import annotations

import functools
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

_FOLDERS = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
log = logging.getLogger(__name__)


def keep_on_disk() -> Path:
    """Have compilers keep what they make in the user's cache folder, unless told where already.

    Returns:
        The folder; where the user's cannot be written, one of this user among temporary files.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gem3d-engine"
    try:
        home.mkdir(parents=True, exist_ok=True)
        writable = os.access(home, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        home = Path(tempfile.gettempdir()) / f"gem3d-engine-{os.getuid()}"
    for name, part in _FOLDERS.items():
        os.environ.setdefault(name, str(home / part))
    return home


@functools.cache
def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function compiled for any size; the function itself from its first failure on."""
    return _Region(function)


class _Region:
    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._plain = function
        self._fast: Callable[..., Tensor] | None = torch.compile(function, dynamic=True)

    def __call__(self, *inputs: object) -> Tensor:
        if self._fast is None:
            return self._plain(*inputs)
        try:
            return self._fast(*inputs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler may fail in any way
            first = (str(error).splitlines() or [""])[0][:200]
            log.warning("%s goes on uncompiled: %s", self._plain.__name__, first)
            self._fast = None
            return self._plain(*inputs)
