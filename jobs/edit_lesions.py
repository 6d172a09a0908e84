#!/usr/bin/env python
"""Counterfactuals: the same patients with a lesion moved, scaled, removed, or drawn anew.

    python jobs/edit_lesions.py --data prepared --weights w --cases pat2 --shift-mm-zyx 0 0 20
    python jobs/edit_lesions.py --data prepared --weights w --remove --keep-original
    python jobs/edit_lesions.py --data prepared --weights w --cases pat2 --drawn my_mask.nii.gz

Exit code 0: every planned volume exists. 1: some failed, the rest is finished. 2: refused.
3: the Ray cluster went away. Codes of interruptions: `engine/command.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from engine.command import run_command
from engine.config import parse_job
from engine.runs.jobs.command import tell_outcome
from engine.runs.jobs.edit_lesions import EditConfig, edit_lesions


def main(args: Sequence[str]) -> int:
    """Parse, run, say where to look; return the exit code."""

    def job() -> int:
        config = parse_job(EditConfig, args, "Make counterfactuals.")
        return tell_outcome(edit_lesions(config), print)

    return run_command(job, print)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
