"""Seeds that depend on nothing but the sample: hash(run seed, sample_id, number, purpose)."""

from __future__ import annotations

import hashlib


def noise_seed(seed: int, sample_id: str, z: int, purpose: str) -> int:
    """A 63-bit seed; equal arguments give equal seeds on every machine."""
    text = "\x1f".join((str(seed), sample_id, str(z), purpose)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
