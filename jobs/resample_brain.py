#!/usr/bin/env python3
"""Resample a data set of brain FLAIR: new volumes for its own tumour and brain masks.

    python jobs/resample_brain.py --data prepared/brain --weights runs/weights --augment

--augment turns, flips and moves tumours inside the brain, by the paper's ranges.
Exit code 0: every planned volume exists. 1: some failed, the rest is finished. 2: refused.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from engine.config import parse_job
from engine.errors import EngineError
from engine.log import show_log
from engine.runs.resample import BrainConfig, resample_brain

DEFAULTS = Path(__file__).parent / "configs" / "resample_brain.yaml"


def main(args: Sequence[str]) -> int:
    """Parse, run, say where to look; return the exit code."""
    show_log()
    try:
        outcome = resample_brain(parse_job(BrainConfig, args, "Resample brain FLAIR.", DEFAULTS))
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; start the same command again for the rest", file=sys.stderr)
        return 130
    summary = outcome.summary
    print(
        f"{summary.committed} of {summary.planned} volumes, {summary.failed} failed; "
        f"report: {outcome.report}"
    )
    return 1 if summary.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
