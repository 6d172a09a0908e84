#!/usr/bin/env python
"""NIfTI (nnU-Net raw, Medical Segmentation Decathlon, or two folders) -> prepared Zarr.

    CONFIG=jobs/configs/prepare_abdomen_ct.yaml
    python jobs/prepare_dataset.py --config $CONFIG --root DATASET_FOLDER --out prepared/abdomen_ct

Exit code 0: every case is prepared. 1: some were refused (named), the rest is there. 2: nothing is.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from engine.config import load_config
from engine.errors import EngineError
from engine.log import show_log
from engine.runs.prepare_dataset import PrepareJob, run_job


def main(args: Sequence[str]) -> int:
    """Parse, prepare, say what came of it; return the exit code."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    known, rest = parser.parse_known_args(args)
    show_log()
    try:
        about = "Prepare a data set. --config FILE.yaml gives the settings to start from."
        summary = run_job(load_config(PrepareJob, known.config, rest, description=about))
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for case_id, reason in summary.failed.items():
        print(f"refused {case_id}: {reason}", file=sys.stderr)
    print(
        f"{summary.planned} cases: {summary.prepared} prepared, {summary.kept} kept, "
        f"{len(summary.failed)} refused; in {summary.out}"
    )
    return 1 if summary.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
