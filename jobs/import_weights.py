#!/usr/bin/env python
"""Import foreign weights: a KL autoencoder to train on, or a public GEM-3D checkpoint.

    python jobs/import_weights.py --source kl-f8.ckpt --data runs/prepared --weights runs/weights
    python jobs/import_weights.py --kind gem3d --source gem3d.ckpt --weights runs/gem3d

Pickles of more than tensors are never read; what does not fit is refused by name.
Exit code 0: the weights folder is written. 2: refused.
Codes of interruptions: `engine/command.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from engine.command import run_command
from engine.config import parse_job
from engine.training.weights.import_weights import ImportJob, import_weights


def main(args: Sequence[str]) -> int:
    """Parse, import, say where; return the exit code."""

    def job() -> int:
        settings = parse_job(ImportJob, args, "Import foreign weights.")
        manifest = import_weights(settings)
        stages = ", ".join(manifest.stages)
        print(f"{stages} of preset {manifest.preset.name} in {settings.weights}")
        return 0

    return run_command(job, print)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
