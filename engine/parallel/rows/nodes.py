"""Where in the cluster this process runs, and whether a process ended by what is no row's fault.

That is when its computer left the cluster, or when it was stopped there (SIGSTOP, a blocked disk)
and the job ended it (`stalls.py`). Outside Ray nothing is known: no name, and nothing is gone.
"""

from __future__ import annotations

import os
import sys

NAMESPACE = b"gem3d-pulse"
"""Of the cluster's key-value store, in which workers and driver tell each other signs."""


def this_node() -> str:
    """Ray's id of this process's computer; empty outside Ray."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return ""
    return str(ray.get_runtime_context().get_node_id())


def this_process() -> str:
    """A name of this process in the cluster, which tells no host; empty outside Ray."""
    node = this_node()
    return node and f"{node}:{os.getpid()}"


def is_blameless(process: str) -> bool:
    """Whether a process ended by what is no fault of the rows that it held.

    Args:
        process: from `this_process`, of any process of this cluster; empty is unknown. Records of
            earlier versions hold the name of its computer alone.
    """
    ray = sys.modules.get("ray")
    if not process or ray is None or not ray.is_initialized():
        return False
    node = process.partition(":")[0]
    if any(found["NodeID"] == node and not found["Alive"] for found in ray.nodes()):
        return True
    signs = sys.modules["ray.experimental.internal_kv"]  # Ray's own core loads it
    return bool(signs._internal_kv_exists(stopped_key(process), namespace=NAMESPACE))


def stopped_key(process: str) -> bytes:
    """Under which the cluster knows that a process was stopped, and ended for that."""
    return f"stopped/{process}".encode()
