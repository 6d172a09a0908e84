#!/usr/bin/env python
"""Harmonize several sites: sample every case with the same informed slice.

    python jobs/harmonize_sites.py --sites A=prepared/a B=prepared/b --weights runs/weights
    python jobs/harmonize_sites.py --data prepared --table sites.csv --slices pat7:41
    python jobs/harmonize_sites.py --sites A=a B=b --reference-site A   # the medoid of site A

Without --slices the reference is the medoid's slice. harmonization.html in the run folder shows
before and after, and each organ's distance to the reference.
Exit code 0: every planned volume exists. 1: some failed, the rest is finished. 2: refused.
3: the Ray cluster went away. Codes of interruptions: `engine/command.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from engine.command import run_command
from engine.config import parse_job
from engine.runs.jobs.command import tell_outcome
from engine.runs.jobs.harmonize import HarmonizeConfig, harmonize


def main(args: Sequence[str]) -> int:
    """Parse, run, say where to look; return the exit code."""

    def job() -> int:
        outcome = harmonize(parse_job(HarmonizeConfig, args, "Harmonize several sites."))
        report = outcome.report.with_name("harmonization.html")
        return tell_outcome(replace(outcome, report=report), print)

    return run_command(job, print)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
