"""Nodes of a cluster are lost without warning, and join, in mid-run; on 127.0.0.1 alone."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
from ray.cluster_utils import Cluster

from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.sampling.request import SampledVolume, SampleRequest
from faults.bench import DEADLINE_S, Bench, Fault
from faults.sampler import FakeSampler

_ADDRESS = "127.0.0.1"
_NODE: dict[str, Any] = {
    "node_ip_address": _ADDRESS,
    "num_gpus": 0,
    "object_store_memory": 128 * 2**20,
}
_VOLUME_S = 1.0
_LONG_VOLUME_S = 15.0  # time for the worker on a node that joins to start
_POLL_S = 0.1


@dataclass(frozen=True)
class TellingSampler(FakeSampler):
    """Tells, by a file, on which node a volume is in the making."""

    def sample(
        self, request: SampleRequest, on_window: Callable[[int, int], None] | None = None
    ) -> SampledVolume:
        """Make one volume."""
        (self.place / ray.get_runtime_context().get_node_id()).touch()
        return super().sample(request, on_window)


def changed_nodes(bench: Bench, out: Path, fault: str) -> str:
    """The job must end whole; its children did to themselves what the fault is."""
    process = bench.child(out, fault, ray=True)
    try:
        process.wait(DEADLINE_S)
    finally:
        process.kill()
    told = out.with_name(f"{out.name}.marks") / "struck"
    if not told.exists():
        return "no node was lost, and none joined"
    return "" if process.returncode == 0 else f"the job failed ({process.returncode})"


def _lose_one_of_two(marks: Path) -> FakeSampler:
    """Two nodes of two CPUs; that which is not the head is lost, and the other goes on."""
    cluster = _start(head_cpus=2)
    node = cluster.add_node(num_cpus=2, **_NODE)
    _when_busy(node, marks, lambda: cluster.remove_node(node, allow_graceful=False))
    return _ready(cluster, marks)


def _replace_the_only(marks: Path) -> FakeSampler:
    """A head without CPUs and one node; it is lost, and only then another one is added."""
    cluster = _start(head_cpus=0)
    node = cluster.add_node(num_cpus=2, **_NODE)

    def replace() -> None:
        cluster.remove_node(node, allow_graceful=False)
        _add_node(cluster, 2)

    _when_busy(node, marks, replace)
    return _ready(cluster, marks)


def blamed_nobody(bench: Bench, out: Path, fault: str) -> str:
    """The sample that was alone on the lost node must not have a failure for it."""
    trouble = changed_nodes(bench, out, fault)
    folder = RunFolder(out)
    names = sorted(ledger.attempted_ids(folder))
    held = [name for name in names if ledger.num_failures(folder, name)]
    return trouble or (f"it was held against {', '.join(held)}" if held else "")


def joined_node(bench: Bench, out: Path, fault: str) -> str:
    """Both nodes, the first and the one that joined, must have made volumes."""
    trouble = changed_nodes(bench, out, fault)
    if trouble:
        return trouble
    marks = out.with_name(f"{out.name}.marks")
    nodes = [mark for mark in marks.iterdir() if mark.name != "struck"]
    return "" if len(nodes) == 2 else f"{len(nodes)} node(s) made all volumes"


def _join(marks: Path) -> FakeSampler:
    """A head without CPUs and one node of four; while that one works, another like it joins."""
    cluster = _start(head_cpus=0)
    node = cluster.add_node(num_cpus=4, **_NODE)
    _when_busy(node, marks, partial(_add_node, cluster, 4))
    return _ready(cluster, marks, _LONG_VOLUME_S)


def _add_node(cluster: Cluster, num_cpus: int) -> None:
    # a node sets a signal handler, which only the main thread may; the head's is there already
    with patch("ray._private.utils.set_sigterm_handler"):
        cluster.add_node(num_cpus=num_cpus, **_NODE)


def _start(head_cpus: int) -> Cluster:
    """A cluster that this process takes down."""
    place = tempfile.mkdtemp(prefix="gem3d-")  # short: sockets live in it
    head = {**_NODE, "num_cpus": head_cpus, "include_dashboard": False, "temp_dir": place}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    atexit.register(cluster.shutdown)
    return cluster


def _ready(cluster: Cluster, marks: Path, seconds: float = _VOLUME_S) -> FakeSampler:
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = cluster.address
    return TellingSampler(marks, seconds=seconds)


def _when_busy(node: Any, marks: Path, strike: Callable[[], None]) -> None:
    """Strike as soon as a volume is in the making on a node."""

    def watch() -> None:
        while not (marks / node.node_id).exists():
            time.sleep(_POLL_S)
        time.sleep(_VOLUME_S / 2)
        strike()
        (marks / "struck").touch()
        threading.Event().wait()  # Linux ends what a thread has started together with the thread

    threading.Thread(target=watch, name="strike", daemon=True).start()


FAULTS = (
    Fault("node lost", partial(changed_nodes, fault="node lost"), _lose_one_of_two, needs_ray=True),
    Fault(
        "node replaced",
        partial(changed_nodes, fault="node replaced"),
        _replace_the_only,
        needs_ray=True,
    ),
    Fault(
        "node lost, one row",
        partial(blamed_nobody, fault="node lost, one row"),
        _lose_one_of_two,
        needs_ray=True,
        rows_at_once=1,
    ),
    Fault("node joins", partial(joined_node, fault="node joins"), _join, needs_ray=True),
)
