"""Foreign files of named tensors: read safely, and refused by name where they do not fit.

Knows nothing of any architecture.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.errors import WeightsFileError

_NAMED = 5  # names listed in a message


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, or of a checkpoint that `weights_only` unpickling reads.

    A checkpoint may hold its tensors under `state_dict`.

    Raises:
        WeightsFileError: missing, damaged, without tensors, or a pickle of anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsFileError(f"{path}: not found") from None
    except SafetensorError as error:
        raise WeightsFileError(f"{path}: not a safetensors file ({error})") from None
    except pickle.UnpicklingError as error:
        raise WeightsFileError(
            f"{path}: a pickle with more than tensors in it is never read "
            f"({_first_line(error)}); store its state_dict as safetensors where it was made"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise WeightsFileError(f"{path}: not a checkpoint ({_first_line(error)})") from None
    return _tensors_of(content, path)


def refuse_misfits(
    path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], remedy: str
) -> None:
    """Check names and shapes.

    Raises:
        WeightsFileError: naming what is missing, unknown or of another shape.
    """
    missing = sorted(set(wanted) - set(found))
    unknown = sorted(set(found) - set(wanted))
    shapes = [
        f"{name} {tuple(found[name].shape)} for {tuple(wanted[name].shape)}"
        for name in sorted(set(wanted) & set(found))
        if found[name].shape != wanted[name].shape
    ]
    kinds = {"missing": missing, "unknown": unknown, "of another shape": shapes}
    wrong = [f"{len(names)} {kind}: {_list(names)}" for kind, names in kinds.items() if names]
    if wrong:
        raise WeightsFileError(f"{path}: tensors do not fit ({'; '.join(wrong)}); {remedy}")


def _tensors_of(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise WeightsFileError(f"{path}: holds no named tensors")
    tensors = {str(name): v for name, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        raise WeightsFileError(f"{path}: holds no named tensors")
    return tensors


def _list(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
