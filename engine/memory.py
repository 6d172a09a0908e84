"""Whether an error says that memory ran out: of a GPU, of this process, or of the machine.

One place for all rooms, because allocators say it in words of their own. Imports no torch.
"""

from __future__ import annotations

import re

_TYPES = ("OutOfMemoryError",)  # torch.OutOfMemoryError; torch.cuda's and accelerators' are it too
_WORDS = re.compile(
    "|".join(
        (
            r"out of memory",  # CUDA, HIP, NCCL, cuDNN, DeepSpeed's own
            r"can't allocate memory",  # torch's CPU allocator
            r"not enough memory",  # the same, on other systems
            r"cannot allocate memory",  # ENOMEM, of the C library
            r"unable to (m?map|allocate) [0-9]+ bytes",  # shared and pinned memory
            r"_ALLOC_FAILED",  # cuBLAS, cuSOLVER, cuDNN: their workspaces
        )
    ),
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; an error that only speaks of memory (an illegal access) is not it."""
    if isinstance(error, MemoryError) or type(error).__name__ in _TYPES:
        return True
    return isinstance(error, RuntimeError | OSError) and _WORDS.search(str(error)) is not None
