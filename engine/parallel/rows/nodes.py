"""Which computer of the cluster this process runs on, and whether one of them is gone.

Outside Ray nothing is known: no name, and nothing is gone.
"""

from __future__ import annotations

import sys


def this_node() -> str:
    """Ray's id of this process's computer; empty outside Ray."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return ""
    return str(ray.get_runtime_context().get_node_id())


def is_lost(node: str) -> bool:
    """Whether a computer has left the cluster (preempted, crashed), as Ray knows it.

    Args:
        node: from `this_node`, of any process of this cluster; empty is unknown.
    """
    ray = sys.modules.get("ray")
    if not node or ray is None or not ray.is_initialized():
        return False
    return any(found["NodeID"] == node and not found["Alive"] for found in ray.nodes())
