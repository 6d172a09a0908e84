"""A path of this interpreter that Ray can start.

Ray hands its workers' command to a shell without quotes, so that an environment in a folder with a
space (or another character that a shell reads) starts no worker. A link in a short private folder
leads to the same environment by a plain path.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

from engine.errors import RunError
from engine.parallel.computer.private_folder import make_private, short_tmp

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


def plain_interpreter() -> str:
    """`sys.executable`, by a path that needs no quotes.

    The link stays: the name of its folder follows from the environment's, and what compilers kept
    of its path can be used again.

    Raises:
        RunError: the interpreter lies outside its environment, or the link cannot be made.
    """
    if _PLAIN.fullmatch(sys.executable):
        return sys.executable
    prefix = Path(sys.prefix)
    try:
        inside = Path(sys.executable).relative_to(prefix)
        link = _link_to(prefix)
    except (ValueError, OSError) as error:
        raise RunError(
            f"{sys.executable!r}: Ray cannot start from a path with a space, and no link to it "
            f"can be made ({error}); move the checkout to a path without spaces"
        ) from None
    return str(link / inside)


def _link_to(prefix: Path) -> Path:
    name = hashlib.sha256(os.fsencode(prefix)).hexdigest()[:12]
    folder = short_tmp() / f"gem3d-env-{os.getuid()}-{name}"
    make_private(folder)
    link = folder / "env"
    if not (link.is_symlink() and link.readlink() == prefix):
        staged = folder / f"env.{os.getpid()}"
        staged.symlink_to(prefix)
        staged.replace(link)  # whole for other jobs that start now
    return link
