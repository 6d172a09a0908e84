#!/usr/bin/env python3
"""Resample a data set of brain FLAIR: new volumes for its own tumour and brain masks.

    python jobs/resample_brain.py --data prepared/brain --weights runs/weights --augment

--augment turns, flips and moves tumours inside the brain, by the paper's ranges.
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
from engine.runs.jobs.resample import BrainConfig, resample_brain

DEFAULTS = Path(__file__).parent / "configs" / "resample_brain.yaml"


def main(args: Sequence[str]) -> int:
    """Parse, run, say where to look; return the exit code."""

    def job() -> int:
        config = parse_job(BrainConfig, args, "Resample brain FLAIR.", DEFAULTS)
        return tell_outcome(resample_brain(config), print)

    return run_command(job, print)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
