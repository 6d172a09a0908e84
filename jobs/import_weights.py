#!/usr/bin/env python
"""Import foreign weights: a KL autoencoder to train on, or a public GEM-3D checkpoint.

    python jobs/import_weights.py --source kl-f8.ckpt --data runs/prepared --weights runs/weights
    python jobs/import_weights.py --kind gem3d --source gem3d.ckpt --weights runs/gem3d

Pickles of more than tensors are never read; what does not fit is refused by name.
Exit code 0: the weights folder is written. 2: refused.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from engine.config import parse_job
from engine.errors import EngineError
from engine.log import show_log
from engine.training.import_weights import ImportJob, import_weights


def main(args: Sequence[str]) -> int:
    """Parse, import, say where; return the exit code."""
    show_log()
    try:
        job = parse_job(ImportJob, args, "Import foreign weights.")
        manifest = import_weights(job)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{', '.join(manifest.stages)} of preset {manifest.preset.name} in {job.weights}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
