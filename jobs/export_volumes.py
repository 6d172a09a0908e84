#!/usr/bin/env python
"""Write a run's volumes and masks as NIfTI, on each mask's own grid.

    python jobs/export_volumes.py --run runs/mine --out exported
    python jobs/export_volumes.py --run runs/mine --layout nnunet --out Dataset901_Mine

Start it again to go on with an export that was broken off.
Exit code 0: every committed volume is exported. 2: refused.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from engine.config import parse_job
from engine.errors import EngineError, one_line
from engine.log import show_log
from engine.runs.export import ExportJob, export_run


def main(args: Sequence[str]) -> int:
    """Parse, export, say where; return the exit code."""
    show_log()
    try:
        job = parse_job(ExportJob, args, "Export a run to NIfTI.")
        paths = export_run(job)
    except (EngineError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    print(f"{len(paths)} volumes in {paths[0].parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
