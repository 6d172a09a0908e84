"""A Ray address that is dead is refused in seconds, with what is the matter and how to go on."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import ray

from engine.errors import RunError
from engine.parallel.computer import address
from engine.parallel.computer.address import check_address, is_local
from engine.parallel.start import session as session_module
from engine.parallel.start.session import RaySession

SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@contextmanager
def server(answer: bytes | None, family: socket.AddressFamily = socket.AF_INET) -> Iterator[int]:
    """A port of this computer that answers every connection alike (None: not at all)."""
    held = []
    with socket.socket(family) as listener:
        listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                held.append(connection)
                if answer is not None:
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    for connection in held:
        connection.close()


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_head_is_known_by_its_greeting() -> None:
    with server(SETTINGS) as port:
        check_address(f"127.0.0.1:{port}")
        check_address(f"ray://localhost:{port}")
    if socket.has_ipv6:
        with server(SETTINGS, socket.AF_INET6) as port:
            check_address(f"[::1]:{port}")


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "[::1]:{}"])
def test_nobody_listens(form: str) -> None:
    with pytest.raises(RunError, match=r"no Ray cluster answers there \(\w.*; start one .*unset"):
        check_address(form.format(closed_port()))


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request", b"SSH-2.0-x\r\n", b"", b"x"])
def test_somebody_else_listens(answer: bytes) -> None:
    with server(answer) as port, pytest.raises(RunError, match=r"no Ray head|reset"):
        check_address(f"127.0.0.1:{port}")


def test_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "PATIENCE_S", 0.2)
    with server(None) as port, pytest.raises(RunError, match=r"there \(no answer\)"):
        check_address(f"127.0.0.1:{port}")


@pytest.mark.parametrize("text", ["nonsense", "a:b", "[::1", "host:", "ray://", "1.2.3.4:99999"])
def test_no_address(text: str) -> None:
    with pytest.raises(RunError, match="not the address of a Ray cluster; write HOST:PORT"):
        check_address(text)


@pytest.mark.parametrize("text", ["http://127.0.0.1:8265", "https://ray.example"])
def test_an_address_of_job_submission(text: str) -> None:
    with pytest.raises(RunError, match="use `ray job submit`"):
        check_address(text)


def test_no_address_is_a_ray_of_our_own() -> None:
    assert is_local(None)
    assert is_local("")
    assert is_local("local")
    assert not is_local("auto")


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "auto"])
def test_a_job_is_refused_before_ray_is_asked(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(**_more: object) -> None:
        raise AssertionError("Ray would try for many minutes")

    port = closed_port()
    monkeypatch.setattr(ray, "init", never)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    found = f"127.0.0.1:{port}"
    monkeypatch.setattr(
        session_module, "canonicalize_bootstrap_address_or_die", lambda _auto: found
    )
    monkeypatch.setenv("RAY_ADDRESS", form.format(port))
    started_s = time.monotonic()
    with RaySession() as session, pytest.raises(RunError, match="no Ray cluster answers there"):
        session.start()
    assert time.monotonic() - started_s < 10
