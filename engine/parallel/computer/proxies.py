"""Proxies of the outer network, which must not stand between Ray's own processes.

Programs read `no_proxy` or `NO_PROXY`, and some only the first that they find, so both say the
same.
"""

from __future__ import annotations

from collections.abc import Mapping

_SPELLINGS = ("no_proxy", "NO_PROXY")
_THIS_COMPUTER = ("127.0.0.1", "localhost", "::1")


def direct_to_this_computer(env: Mapping[str, str]) -> dict[str, str]:
    """Both spellings of `no_proxy` with this computer in them, and all that was there.

    Args:
        env: the environment.

    >>> direct_to_this_computer({"no_proxy": ".hospital.example"})["NO_PROXY"]
    '.hospital.example,127.0.0.1,localhost,::1'
    """
    entries = [one.strip() for key in _SPELLINGS for one in env.get(key, "").split(",")]
    if "*" in entries:  # no proxy at all; only understood when it stands alone
        return dict.fromkeys(_SPELLINGS, "*")
    kept = dict.fromkeys(filter(None, [*entries, *_THIS_COMPUTER]))
    return dict.fromkeys(_SPELLINGS, ",".join(kept))
