"""Ray's settings for a private local Ray; must stand in the environment before Ray is imported.

Ray reads how it authenticates and where it listens once, at its import, and without them it writes
a token to the home folder or listens on the outer address. Imports nothing of Ray.
"""

from __future__ import annotations

import os
import secrets


def set_local_defaults() -> None:
    """Choose token authentication, 127.0.0.1 and no usage reports for a Ray of our own.

    Leaves everything alone in a process that belongs to a cluster (RAY_ADDRESS) or whose user has
    decided on authentication (RAY_AUTH_MODE). The token is in the environment only, so that Ray's
    processes inherit it and no file keeps it.
    """
    # Denoising and decoding have a team of threads each; idle ones must not starve the others.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if {"RAY_ADDRESS", "RAY_AUTH_MODE"} & os.environ.keys():
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # keeps 127.0.0.1 on Linux too
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
