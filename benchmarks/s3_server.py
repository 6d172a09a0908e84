"""A real S3 server on 127.0.0.1 that can be stopped and come back, and a slow way to it."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import logging
import socket
import threading
import time
from collections.abc import Iterator

from moto.server import ThreadedMotoServer

BUCKET = "bucket"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "only-for-tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class S3Server:
    """moto's server; its objects live in this process, and so outlive its stops."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._server: ThreadedMotoServer | None = None

    def start(self) -> None:
        """Answer from now on."""
        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        """Refuse connections from now on."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def reset(self) -> None:
        """Forget every object; have one empty bucket."""
        for path, method in (("/moto-api/reset", "POST"), (f"/{BUCKET}", "PUT")):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            connection.request(method, path)
            connection.getresponse().read()
            connection.close()


@contextlib.contextmanager
def slow_way(port: int, seconds: float, num_late: int | None = None) -> Iterator[int]:
    """A port that forwards to another one, and is late.

    Args:
        port: of the server.
        seconds: before each connection's first answer.
        num_late: only so many connections are late; None is all.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    ending = threading.Event()

    def forward(source: socket.socket, target: socket.socket, wait_s: float) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                time.sleep(wait_s)
                wait_s = 0.0
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        for number in itertools.count():
            try:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
            except OSError:
                if ending.is_set():
                    return
                continue
            late_s = seconds if num_late is None or number < num_late else 0.0
            for pair in ((near, far, 0.0), (far, near, late_s)):
                threading.Thread(target=forward, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        ending.set()
        listener.close()
