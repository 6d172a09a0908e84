#!/usr/bin/env python
"""NIfTI (nnU-Net raw, Medical Segmentation Decathlon, or two folders) -> prepared Zarr.

    CONFIG=jobs/configs/prepare_abdomen_ct.yaml
    python jobs/prepare_dataset.py --config $CONFIG --root DATASET_FOLDER --out prepared/abdomen_ct

Exit code 0: every case is prepared. 1: some were refused (named), the rest is there. 2: nothing is.
3: the Ray cluster went away. Codes of interruptions: `engine/command.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from engine.command import run_command
from engine.config import parse_job
from engine.preparing.dataset import PrepareSummary, run_job
from engine.preparing.settings import PrepareJob


def main(args: Sequence[str]) -> int:
    """Parse, prepare, say what came of it; return the exit code."""

    def job() -> int:
        return _tell(run_job(parse_job(PrepareJob, args, "Prepare a data set.")))

    return run_command(job, print)


def _tell(summary: PrepareSummary) -> int:
    for case_id, reason in summary.failed.items():
        print(f"refused {case_id}: {reason}", file=sys.stderr)
    for line in (*summary.labels, *summary.loss):
        print(line)
    print(
        f"{summary.planned} cases: {summary.prepared} prepared, {summary.kept} kept, "
        f"{len(summary.failed)} refused; in {summary.out}"
    )
    return 1 if summary.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
