#!/usr/bin/env python
"""Make a cohort of artificial patients as an nnU-Net raw data set.

    python jobs/make_phantoms.py --out phantoms --num-phantoms 64
    python jobs/make_phantoms.py --out heads --kind head --label-maps MAPS --contrast flair

Abdomens (CT) come from the seed alone, heads (MR-like) from label maps of real ones. The same seed
and index give the same voxels; phantoms that are there already are kept.
Exit code 0: all are there. 2: refused.
Codes of interruptions: `engine/command.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from engine.command import run_command
from engine.config import parse_job
from engine.volumes.phantoms.job import CohortJob, make_cohort


def main(args: Sequence[str]) -> int:
    """Parse, write, say where; return the exit code."""

    def job() -> int:
        cohort = parse_job(CohortJob, args, "Make phantoms.")
        names = make_cohort(cohort, on_case=_tell)
        print(f"{len(names)} phantoms in {cohort.out}")
        return 0

    return run_command(job, print)


def _tell(name: str) -> None:
    print(name, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
