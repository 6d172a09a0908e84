"""A cluster that dies ends its job with words and a code of its own."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import ClusterLostError
from engine.parallel.rows.cluster_watch import ClusterWatch, knock_at_port, knock_at_socket

JOB = """
import sys, time
from engine.command import run_command
from engine.parallel.rows import cluster_watch
from engine.parallel.rows.cluster_watch import ClusterWatch
cluster_watch._UNWIND_S = 1.0
def refuse():
    raise ConnectionRefusedError
watch = ClusterWatch({"its raylet": refuse}, 0.1)
def job():
    watch.start()
    end = time.monotonic() + 20.0
    while time.monotonic() < end:
        try:
            time.sleep(20.0)
        except BaseException:
            if not STUCK:
                raise
    return 0
code = run_command(job, print)
watch.stop()
sys.exit(code)
"""


@pytest.mark.parametrize("stuck", [False, True])
def test_a_lost_cluster_ends_the_job_even_when_it_is_stuck(stuck: bool) -> None:
    words = [sys.executable, "-c", JOB.replace("STUCK", str(stuck))]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 3
    assert done.stderr == (
        "error: the Ray cluster is gone (its raylet does not answer any more); what is done "
        "stays: start the same command again to go on\n"
    )


ABANDONED = """
import sys, time
from engine.parallel.start import session
session._LEAVING_S = 1.0
sys.excepthook = lambda *_: time.sleep(60)  # as Ray's, which waits for the cluster
session._abandon()
if STUCK:
    time.sleep(60)
raise RuntimeError("nobody catches this")
"""


@pytest.mark.parametrize("stuck", [False, True])
def test_leaving_a_lost_cluster_has_its_code_whoever_called(stuck: bool) -> None:
    words = [sys.executable, "-c", ABANDONED.replace("STUCK", str(stuck))]
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=50
    )
    assert done.returncode == 3
    assert ("nobody catches this" in done.stderr) is not stuck


def test_doors_are_knocked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("door")
        server.listen()
        knock_at_socket("door")()
    with pytest.raises(OSError, match="refused"):
        knock_at_socket("door")()
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        host, port = tcp.getsockname()[:2]
        knock_at_port(host, port)()
    with pytest.raises(OSError, match="refused"):
        knock_at_port(host, port)()


def test_a_short_refusal_is_no_loss() -> None:
    refusals = iter([True, False])

    def door() -> None:
        if next(refusals, False):
            raise ConnectionRefusedError

    watch = ClusterWatch({"door": door}, 5.0)
    watch.start()
    try:
        assert next(refusals, None) is not None
    except ClusterLostError:
        pytest.fail("it was lost")
    finally:
        watch.stop()
    assert not watch.is_lost


def test_a_door_that_refuses_is_seen_without_waiting() -> None:
    def refuse() -> None:
        raise ConnectionRefusedError

    assert ClusterWatch({"a": lambda: None, "b": refuse}, 60.0).refuses()
    assert not ClusterWatch({"a": lambda: None}, 60.0).refuses()
