#!/usr/bin/env python
"""Write a run's volumes and masks as NIfTI, on each mask's own grid.

    python jobs/export_volumes.py --run runs/mine --out exported
    python jobs/export_volumes.py --run runs/mine --layout nnunet --out Dataset901_Mine

Start it again to go on with an export that was broken off.
Exit code 0: every committed volume is exported. 2: refused.
Codes of interruptions: `engine/command.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from engine.command import run_command
from engine.config import parse_job
from engine.runs.export.export import ExportJob, export_run


def main(args: Sequence[str]) -> int:
    """Parse, export, say where; return the exit code."""

    def job() -> int:
        paths = export_run(parse_job(ExportJob, args, "Export a run to NIfTI."))
        print(f"{len(paths)} volumes in {paths[0].parent}")
        return 0

    return run_command(job, print)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
