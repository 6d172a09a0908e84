"""Ray's settings for a private local Ray; must stand in the environment before Ray is imported.

Ray reads how it authenticates and where it listens once, at its import, and without them it writes
a token to the home folder or listens on the outer address. Imports nothing of Ray.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from engine.parallel.computer.address import is_local
from engine.parallel.computer.proxies import direct_to_this_computer

_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def set_local_defaults() -> None:
    """Choose token authentication, 127.0.0.1 and no usage reports for a Ray of our own.

    Leaves authentication alone in a process that belongs to a cluster (RAY_ADDRESS) or whose user
    has decided on it (RAY_AUTH_MODE). The token is in the environment only, so that Ray's processes
    inherit it and no file keeps it. A token file that is gone was that of a cluster that is down.
    """
    # Denoising and decoding have a team of threads each; idle ones must not starve the others.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.update(direct_to_this_computer(os.environ))
    if not is_local(os.environ.get("RAY_ADDRESS")):
        return
    is_left_over = _forget_token_of_a_cluster_that_is_down()
    if "RAY_AUTH_MODE" in os.environ and not is_left_over:
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    if not os.environ.keys() & set(_TOKENS):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # keeps 127.0.0.1 on Linux too
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def _forget_token_of_a_cluster_that_is_down() -> bool:
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if path is None or Path(path).is_file():
        return False
    del os.environ["RAY_AUTH_TOKEN_PATH"]
    return True
