#!/usr/bin/env python
"""Harmonize several sites: sample every case with the same informed slice.

    python jobs/harmonize_sites.py --sites A=prepared/a B=prepared/b --weights runs/weights
    python jobs/harmonize_sites.py --data prepared --table sites.csv --slices pat7:41
    python jobs/harmonize_sites.py --sites A=a B=b --reference-site A   # the medoid of site A

Without --slices the reference is the medoid's slice. harmonization.html in the run folder shows
before and after, and each organ's distance to the reference.
Exit code 0: every planned volume exists. 1: some failed, the rest is finished. 2: refused.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from engine.config import parse_job
from engine.errors import EngineError
from engine.log import show_log
from engine.runs.harmonize import HarmonizeConfig, harmonize


def main(args: Sequence[str]) -> int:
    """Parse, run, say where to look; return the exit code."""
    show_log()
    try:
        outcome = harmonize(parse_job(HarmonizeConfig, args, "Harmonize several sites."))
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; start the same command again for the rest", file=sys.stderr)
        return 130
    summary = outcome.summary
    print(
        f"{summary.committed} of {summary.planned} volumes, {summary.failed} failed; "
        f"report: {outcome.report.with_name('harmonization.html')}"
    )
    return 1 if summary.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
