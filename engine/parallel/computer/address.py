"""Whether a Ray cluster answers at an address, found out in seconds.

Ray itself tries for many minutes. A Ray head greets every connection as HTTP/2 servers do; what
refuses, stays silent or greets otherwise is no head. Imports nothing of Ray.
"""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

from engine.errors import RunError

PATIENCE_S = 5.0
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_HEADER, _SETTINGS = 9, 4  # bytes of a frame's header; type of the first frame (RFC 9113)
_REMEDY = (
    'start one (eval "$(python -m cluster.local up)"), or unset RAY_ADDRESS to use this computer'
)


def is_local(address: str | None) -> bool:
    """Whether RAY_ADDRESS (or its absence) asks for a Ray of the job's own."""
    return address in (None, "", "local")


def check_address(address: str) -> None:
    """Refuse an address at which no Ray head answers.

    Args:
        address: RAY_ADDRESS: `HOST:PORT`, `[IPv6]:PORT`, or `ray://HOST:PORT`.

    Raises:
        RunError: it is not such an address, or nothing there is a Ray head.
    """
    if address.startswith(("http://", "https://")):
        raise RunError(
            f"RAY_ADDRESS={address}: jobs are submitted to such an address and do not join it; "
            "use `ray job submit`, or unset RAY_ADDRESS to use this computer"
        )
    host, port = _host_and_port(address)
    try:
        _greet(host, port)
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise RunError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there ({why}); {_REMEDY}"
        ) from None


def _host_and_port(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None:
        raise RunError(
            f"RAY_ADDRESS={address}: not the address of a Ray cluster; write HOST:PORT, or unset "
            "RAY_ADDRESS to use this computer"
        )
    return host, port


def _greet(host: str, port: int) -> None:
    """Connect, and see a head's first frame.

    Raises:
        OSError: it cannot be reached, is silent, or is no Ray head.
    """
    with socket.create_connection((host, port), timeout=PATIENCE_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return  # greets encrypted clients only
        connection.sendall(_GREETING)
        answer = b""
        while len(answer) < _HEADER:
            more = connection.recv(_HEADER - len(answer))
            if not more:
                break
            answer += more
    if len(answer) < _HEADER or answer[3] != _SETTINGS:
        raise OSError("what answers there is no Ray head")
