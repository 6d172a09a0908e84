"""Ray for the time of one job: the cluster that submitted it, or a private local one.

A job that was submitted (or was given RAY_ADDRESS) joins that cluster. Any other starts its own
Ray, which listens on 127.0.0.1 with a token that lives in this process's environment only (see
`computer/environment.py`), and takes it down again.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import ray
from ray._private.services import canonicalize_bootstrap_address_or_die

from engine.command import LOST, own_signals
from engine.errors import RunError
from engine.log import get_logger
from engine.parallel.computer.address import check_address, is_local
from engine.parallel.computer.interpreter import plain_interpreter
from engine.parallel.computer.private_folder import fresh_folder
from engine.parallel.rows.cluster_watch import ClusterWatch, knock_at_port, knock_at_socket
from engine.parallel.start.quiet import show_workers_without_noise, without_greeting

log = get_logger(__name__)

_LOCAL_ATTEMPTS = 3
_LEAVING_S = 20.0
_PATIENCE_S, _PATIENCE_OWN_S = 30.0, 1.0  # a cluster's control store may be restarted


class RaySession:
    """Starts or joins Ray when first asked, and lets go of it at the end.

    A job that finds nothing to do never asks, and so starts nothing.
    """

    def __init__(self) -> None:
        self._ours = False
        self._folder: Path | None = None  # of a Ray of our own: its sockets and logs
        self._watch: ClusterWatch | None = None

    def start(self, *, show_workers: bool = False) -> None:
        """Have Ray running in this process; does nothing the second time.

        Args:
            show_workers: bring what workers print to this process's output.

        Raises:
            RunError: the cluster at RAY_ADDRESS does not answer, or Ray does not start.
        """
        if ray.is_initialized():
            return
        # each pool of workers would print an error of Ray's core about its constructor arguments
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        address = os.environ.get("RAY_ADDRESS")
        if address is None or is_local(address):
            self._start_local(show_workers)
        else:
            _join(address, show_workers)
        if show_workers:
            show_workers_without_noise()
        self._ours = True
        own_signals()
        self._watch = _watch(_PATIENCE_S if self._folder is None else _PATIENCE_OWN_S)

    def _start_local(self, show_workers: bool) -> None:
        log.info("starting a local Ray")
        sys.executable = plain_interpreter()  # Ray reads it where it starts processes
        self._folder = fresh_folder()
        try:
            _start(self._folder, show_workers)
        except Exception as error:  # Ray raises plain ones too
            raise RunError(
                f"a local Ray cannot be started ({_first_line(error)}); free some memory and CPU, "
                "and start again"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._watch is not None:
            self._watch.stop()
        # who talks to a cluster that is gone may see it before the watch does
        if self._watch is not None and (self._watch.is_lost or self._watch.refuses()):
            _abandon()
        elif self._ours:
            ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _join(address: str, show_workers: bool) -> None:
    try:
        if address == "auto":
            address = canonicalize_bootstrap_address_or_die(address)
        check_address(address)  # Ray itself would try for many minutes
        log.info("joining the Ray cluster at %s", address)
        with without_greeting():
            ray.init(address=address, log_to_driver=show_workers, logging_level=logging.ERROR)
    except RunError:
        raise
    except Exception as error:  # Ray raises plain ones too
        raise RunError(
            f"RAY_ADDRESS={address}: that Ray cluster cannot be joined ({_first_line(error)}); use "
            "its token (RAY_AUTH_TOKEN_PATH) and its version of Ray, or unset RAY_ADDRESS to use "
            "this computer"
        ) from error


def _watch(patience_s: float) -> ClusterWatch | None:
    """Watch this computer's raylet and the cluster's control store."""
    node: Any = ray._private.worker._global_node
    if node is None:  # Ray's client, which has neither
        return None
    host, _, port = node.gcs_address.rpartition(":")
    doors = {
        "its raylet": knock_at_socket(node.raylet_socket_name),
        "its control store (GCS)": knock_at_port(host.strip("[]"), int(port)),
    }
    watch = ClusterWatch(doors, patience_s)
    watch.start()
    return watch


def _abandon() -> None:
    """Let go of a cluster that is gone: Ray would wait for it, and end with another code."""
    # Ray's hook for exceptions that nobody catches writes to the cluster, and waits for it
    sys.excepthook = sys.__excepthook__
    guard = threading.Timer(_LEAVING_S, _leave)  # Ray's core ends this process after 60 s, with 1
    guard.daemon = True
    guard.start()
    node: Any = ray._private.worker._global_node
    if node is not None and node.all_processes:
        with suppress(Exception):  # some are dead
            node.kill_all_processes(check_alive=False, allow_graceful=False)
    atexit.register(_leave)  # before Ray's own, which were registered earlier


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(LOST)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _start(folder: Path, show_workers: bool) -> None:
    """Ray gives its processes 30 s to start, which a busy computer may exceed: try again then."""
    for attempt in range(1, _LOCAL_ATTEMPTS + 1):
        try:
            with without_greeting():
                ray.init(
                    address="local",
                    # one CPU more than workers may hold: Ray Data's own tasks need it
                    num_cpus=max(2, os.cpu_count() or 1),
                    include_dashboard=False,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=str(folder),
                    log_to_driver=show_workers,
                    logging_level=logging.ERROR,
                )
            return
        except Exception:  # Ray raises plain ones too
            ray.shutdown()
            if attempt == _LOCAL_ATTEMPTS:
                raise
            log.warning("Ray did not start; trying again")
