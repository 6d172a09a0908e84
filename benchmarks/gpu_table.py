#!/usr/bin/env python
"""A short table of what `bench_gpu.sh` has left in a folder.

python benchmarks/gpu_table.py FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_job import table as job_table
from speed.settings import table as sampling_table


def main(args: Sequence[str]) -> int:
    """Print, return 0; a file that is not there was not measured."""
    folder = Path(args[0])
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    for result in found:
        print("\n".join(lines(result)), flush=True)
    return 0


def lines(result: dict[str, Any]) -> list[str]:
    """What one bench found."""
    kind = result["bench"]
    head = f"-- {kind}, {result.get('device', '')}, torch {result.get('torch', '')}"
    if kind == "sampling" and "rows" in result:
        kinds = [
            f"   {row['preset']} {row['label']} kernels: {row['kernels']['kinds']}"
            for row in result["rows"]
            if "kernels" in row
        ]
        return [head, sampling_table(result["rows"]), *kinds]
    if kind == "job":
        return [head, job_table(result["rows"])]
    if kind == "peers":
        return [head, *(f"   {name:40s} {value}" for name, value in result["compared"].items())]
    if kind == "training" and "rows" in result:
        return [head, *(f"   {row}" for row in result["rows"])]
    return [head, *(f"   {name:40s} {value}" for name, value in result.items())]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
