"""The ledger of a run: which samples exist (commits), were tried (attempts), are quarantined.

A sample's life: `begin_attempt` -> the worker stages its volume -> `commit`, which puts the commit
record last, or `fail`. Readers believe commit records only. `attempts.py` holds the tries,
`commits.py` what exists; how a volume comes to exist on a disk says `renamed.py`, and in an object
store, where nothing can be renamed, `slots.py`. Knows nothing of models or what a volume is.
"""

from engine.runs.record.ledger.attempts import (
    MAX_FAILURES,
    attempted_ids,
    begin_attempt,
    fail,
    lose,
    mark_interrupted,
    needs_alone,
    num_failures,
    quarantine_error,
    read_attempts,
)
from engine.runs.record.ledger.commits import (
    clear_staging,
    commit,
    committed_ids,
    delete,
    existing,
    read_commit,
    read_commits,
    staging_place,
    stored_ids,
    volume_of,
)

__all__ = [
    "MAX_FAILURES",
    "attempted_ids",
    "begin_attempt",
    "clear_staging",
    "commit",
    "committed_ids",
    "delete",
    "existing",
    "fail",
    "lose",
    "mark_interrupted",
    "needs_alone",
    "num_failures",
    "quarantine_error",
    "read_attempts",
    "read_commit",
    "read_commits",
    "staging_place",
    "stored_ids",
    "volume_of",
]
