#!/usr/bin/env python3
"""Resample a data set of abdominal CT: new volumes for its own masks.

    python jobs/resample_abdomen.py --data prepared/abdomen_ct --out runs/mine --informed own

Without arguments: the embedded demo (eight phantoms, and a real abdomen where its data is at hand).
Exit code 0: every planned volume exists. 1: some failed, the rest is finished. 2: refused.
3: the Ray cluster went away. Codes of interruptions: `engine/command.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from engine.command import run_command
from engine.config import parse_job
from engine.runs.jobs.command import tell_outcome
from engine.runs.jobs.resample import ResampleConfig, resample

DEFAULTS = Path(__file__).parent / "configs" / "resample_abdomen.yaml"


def main(args: Sequence[str]) -> int:
    """Parse, run, say where to look; return the exit code."""

    def job() -> int:
        config = parse_job(ResampleConfig, args, "Resample abdominal CT.", DEFAULTS)
        return tell_outcome(resample(config), print)

    return run_command(job, print)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
