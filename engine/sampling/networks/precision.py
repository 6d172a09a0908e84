"""Which arithmetic the networks use, and which a device can do.

A volume depends on the number format: bfloat16 on a CPU differs from float32 by up to 9 HU, and
with the number of threads, too. So a run chooses once (`engine/runs/planning`) and every
worker takes the same; only who samples without a run leaves the choice to the device at hand.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from engine.errors import ConfigError

_begin: Callable[[], None] = torch.cuda.init  # torch leaves it untyped
_ABSENT = ("No CUDA GPUs are available", "no NVIDIA driver", "not compiled with CUDA")
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def own_device() -> str:
    """Where this process computes: `cuda` where torch can use a GPU, else `cpu`.

    Raises:
        ConfigError: there is a GPU whose driver does not fit this torch; computing on the CPU
            instead would take hours without a word.
    """
    if torch.cuda.is_available():
        return "cuda"
    reason = _why_unusable()
    if any(absent in reason for absent in _ABSENT):
        return "cpu"
    raise ConfigError(_cannot_use(reason))


def check_gpu(device: torch.device) -> None:
    """Refuse a GPU that this torch cannot use.

    Raises:
        ConfigError: names torch, its CUDA and what the driver says.
    """
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(_cannot_use(_why_unusable()))


def _why_unusable() -> str:
    try:
        _begin()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return _ABSENT[0]


def _cannot_use(reason: str) -> str:
    return (
        f"torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use a GPU here: {reason}; "
        "install the torch that fits the driver (cluster/README.md), or hide the GPU with "
        "CUDA_VISIBLE_DEVICES=-1"
    )


def device_precisions(device: torch.device) -> tuple[str, ...]:
    """What a device can do, the one that `auto` takes first.

    A CPU takes float32 although some compute faster in bfloat16: in float32 its volumes are those
    of every other machine. A GPU that emulates bfloat16 (before compute capability 8.0) has none.
    """
    if device.type != "cuda":
        return ("float32", "bfloat16")
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return ("bfloat16", "float16", "float32")
    return ("float16", "float32")


def exact_float32() -> None:
    """Let float32 be float32 on every GPU: TF32 has 10 bits of mantissa, and older cards have none.

    torch takes TF32 for convolutions by itself. For the whole process; other formats do not mind.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """`auto` -> the device's own choice; a named one is taken when the device has it.

    Raises:
        ConfigError: the device cannot do it.
    """
    able = device_precisions(device)
    if name == "auto":
        return _DTYPES[able[0]]
    if name not in able:
        what = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
        raise ConfigError(
            f"precision {name}: {what} can do {' and '.join(sorted(able))}; use a machine that "
            "can, or begin another run with --sampling.precision float32"
        )
    return _DTYPES[name]
