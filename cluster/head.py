"""Starts and stops one Ray head on 127.0.0.1, and keeps its record in a folder.

The folder is private to the user and short (Ray's sockets live in it, and a socket's path may have
107 characters). It holds the token that every client must show, Ray's own temporary files, the log
of the start, and `head.json`, which names the one process that keeps all others (`cluster.reaper`).
Knows nothing of jobs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from engine.errors import RunError
from engine.parallel.computer.interpreter import plain_interpreter
from engine.parallel.computer.private_folder import check_short, make_private, short_tmp
from engine.parallel.computer.proxies import direct_to_this_computer

HOST = "127.0.0.1"
START_TIMEOUT_S = 180.0
START_ATTEMPTS = 3
STOP_TIMEOUT_S = 60.0


class ClusterError(RunError):
    """The local cluster cannot be started, found or stopped; says where and what to do."""


@dataclass(frozen=True)
class Head:
    """A running head: where it listens and which process keeps it."""

    folder: Path
    gcs_port: int
    api_port: int
    keeper_pid: int
    keeper_created: float

    @property
    def api(self) -> str:
        """Address of the dashboard and of job submission."""
        return f"http://{HOST}:{self.api_port}"

    def client_env(self) -> dict[str, str]:
        """Environment with which `ray job submit` and `ray.init()` find and may use this head."""
        return {
            "RAY_ADDRESS": f"{HOST}:{self.gcs_port}",
            "RAY_API_SERVER_ADDRESS": self.api,
            **_shared_env(self.folder),
            **direct_to_this_computer(os.environ),
        }

    def keeper(self) -> psutil.Process | None:
        """The process that keeps this head, or None when it is gone."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.keeper_pid)
            same = abs(process.create_time() - self.keeper_created) < 1.0
            if same and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


def token_path(folder: Path) -> Path:
    """Where a cluster folder keeps its token."""
    return folder / "token"


def default_folder() -> Path:
    """The folder of this user's `up` cluster for the current directory (or GEM3D_CLUSTER_DIR)."""
    if chosen := os.environ.get("GEM3D_CLUSTER_DIR"):
        return Path(chosen).absolute()
    place = hashlib.sha256(os.fsencode(Path.cwd())).hexdigest()[:6]
    return short_tmp() / f"gem3d-{os.getuid()}-{place}"


def find(folder: Path) -> Head | None:
    """The head that `folder` has a record of, if it is still running."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        raw = json.loads((folder / "head.json").read_text(encoding="utf-8"))
        head = Head(**{**raw, "folder": folder})
        return head if head.keeper() else None
    return None


def start(folder: Path, *, num_cpus: int | None, object_store_mb: int, owner: int | None) -> Head:
    """Start a head in `folder` and wait until it takes jobs.

    Args:
        folder: private folder, made if missing.
        num_cpus: CPUs to offer; None offers all.
        object_store_mb: shared memory for objects, in MiB; little is needed, as ids are passed.
        owner: pid of a process whose end also ends the cluster, or None.

    Raises:
        ClusterError: the folder is someone else's, or Ray did not come up.
    """
    try:
        make_private(folder)
        check_short(folder / "ray")
    except RunError as error:
        raise ClusterError(str(error)) from None
    token_path(folder).touch(mode=0o600)
    token_path(folder).write_text(secrets.token_hex(32), encoding="ascii")
    for attempt in range(1, START_ATTEMPTS + 1):
        head = _launch(folder, num_cpus, object_store_mb, owner)
        try:
            _wait_until_ready(head)
        except ClusterError:  # Ray gives its node 30 s to start, which a busy machine may exceed
            stop(head, keep_files=True)
            if attempt == START_ATTEMPTS:
                raise
        except BaseException:
            stop(head)
            raise
        else:
            break
    return head


def _launch(folder: Path, num_cpus: int | None, object_store_mb: int, owner: int | None) -> Head:
    """Start the processes and note who keeps them."""
    gcs_port, api_port, agent_port = _free_ports(3)
    python = plain_interpreter()
    command = [python, "-m", "cluster.reaper"]
    command += ["--owner", str(owner)] if owner is not None else []
    command += ["--", python, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--node-ip-address", HOST, "--port", str(gcs_port)]
    command += ["--dashboard-host", HOST, "--dashboard-port", str(api_port)]
    command += ["--dashboard-agent-listen-port", str(agent_port), "--include-dashboard", "true"]
    command += ["--object-store-memory", str(object_store_mb * 2**20), "--disable-usage-stats"]
    command += ["--temp-dir", str(folder / "ray")]
    command += ["--num-cpus", str(num_cpus)] if num_cpus is not None else []
    with (folder / "start.log").open("wb") as log:
        keeper = subprocess.Popen(
            command,
            env=_head_env(folder),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    created = psutil.Process(keeper.pid).create_time()
    head = Head(folder, gcs_port, api_port, keeper.pid, created)
    record = json.dumps({**asdict(head), "folder": str(folder)}, indent=1)
    (folder / "head.json").write_text(record + "\n", encoding="utf-8")
    return head


def stop(head: Head, *, keep_files: bool = False) -> None:
    """End the head and every process it started; remove its folder.

    Raises:
        ClusterError: its keeper did not end in time.
    """
    keeper = head.keeper()
    if keeper is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            keeper.terminate()
            try:
                keeper.wait(timeout=STOP_TIMEOUT_S)
            except psutil.TimeoutExpired:
                raise ClusterError(
                    f"process {keeper.pid} still ends Ray after {STOP_TIMEOUT_S:.0f} s; run "
                    "`python -m cluster.local down` again"
                ) from None
    if keep_files:
        (head.folder / "head.json").unlink(missing_ok=True)
    else:
        shutil.rmtree(head.folder, ignore_errors=True)


def _wait_until_ready(head: Head) -> None:
    """Wait until the dashboard answers and knows the node, so that a job can be placed."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
    token = token_path(head.folder).read_text(encoding="ascii")
    request = urllib.request.Request(  # noqa: S310  (always http on 127.0.0.1)
        f"{head.api}/nodes?view=summary", headers={"Authorization": f"Bearer {token}"}
    )
    deadline = time.monotonic() + START_TIMEOUT_S
    while head.keeper() is not None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            with opener.open(request, timeout=5.0) as answer:
                nodes = json.load(answer)["data"]["summary"]
            if any(node.get("raylet", {}).get("state") == "ALIVE" for node in nodes):
                return
        time.sleep(0.2)
    log = head.folder / "start.log"
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
    is_late = head.keeper() is not None
    remedy = "free some memory and CPU" if is_late else "correct what its last words say"
    raise ClusterError(
        f"{head.folder}: Ray did not come up; {remedy}, and try again. Its last words:\n{tail}"
    )


def _head_env(folder: Path) -> dict[str, str]:
    """Environment of the head, which its workers and jobs inherit.

    Jobs run in the directory and with the interpreter that the cluster was started with, so that
    `ray job submit jobs/X.py` finds the file and `#!/usr/bin/env python` finds the packages.
    """
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    env["PATH"] = os.pathsep.join(
        [str(Path(plain_interpreter()).parent), env.get("PATH", os.defpath)]
    )
    env["RAY_prestart_worker_first_driver"] = "0"  # idle workers would only cost memory
    env.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads of a team would starve another's
    # a job that Ray runs in a copy of the code still reads and writes beside the original
    env["GEM3D_RUNS"] = str(Path(env.get("GEM3D_RUNS") or ".").absolute())
    data = Path(env.get("GEM3D_DATA") or Path("..", "shared", "data"))
    if data.is_dir():
        env["GEM3D_DATA"] = str(data.resolve())
    return {**env, **direct_to_this_computer(env), **_shared_env(folder)}


def _shared_env(folder: Path) -> dict[str, str]:
    """What the head and its clients must agree on.

    The last entry is Ray's switch for laptops: without it, Ray on Linux replaces 127.0.0.1 by the
    machine's outer address and listens there.
    """
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path(folder)),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]
