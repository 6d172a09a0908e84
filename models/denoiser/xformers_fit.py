"""Whether the xformers that is installed was built for this torch: told once, in one line.

Its wheels are built for one torch and one CUDA; beside others they import, warn in seven lines
(`models/__init__.py` keeps them quiet), and cannot attend. So the wheel's own note of what it was
built for is read. Knows no attention.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
from importlib import metadata
from pathlib import Path

import torch

log = logging.getLogger(__name__)


@functools.cache
def fits() -> bool:
    """Whether xformers is there, and says that it was built for this torch and its CUDA.

    An xformers that does not say is taken: whoever uses it tries it first.
    """
    spec = importlib.util.find_spec("xformers")
    if spec is None or not spec.submodule_search_locations:
        return False
    built = _built_for(Path(next(iter(spec.submodule_search_locations))))
    here = (_minor(torch.__version__), torch.version.cuda or "none")
    if built is None or built == here:
        return True
    if torch.version.cuda is not None:  # beside a CPU build nobody asks for it
        log.warning(
            "xformers %s is built for torch %s with CUDA %s, and this is torch %s with CUDA %s: "
            "torch's own attention is used; cluster/requirements-gpu.lock holds a pair that fits",
            _version(), *built, *here,
        )  # fmt: skip
    return False


def _built_for(package: Path) -> tuple[str, str] | None:
    """Torch (`2.10`) and CUDA (`12.8`) of a wheel; None where it does not say."""
    try:
        version = json.loads((package / "cpp_lib.json").read_text(encoding="utf-8"))["version"]
        return _minor(version["torch"]), f"{version['cuda'] // 100}.{version['cuda'] % 100}"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _minor(version: str) -> str:
    """`2.10.0+cu128` -> `2.10`."""
    return ".".join(version.partition("+")[0].split(".")[:2])


def _version() -> str:
    try:
        return metadata.version("xformers")
    except metadata.PackageNotFoundError:
        return "(of unknown version)"
