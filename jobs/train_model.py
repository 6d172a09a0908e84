#!/usr/bin/env python
"""Train one stage of a model: autoencoder, slice, volume, position or distill.

    python jobs/train_model.py --stage autoencoder --data prepared/abdomen_ct --weights runs/weights

Each stage adds its weights to the folder; the next stage reads them there. `distill` reads its
teacher from `--start-from` and writes a folder of its own. A stage that was broken off goes on from
its last checkpoint, with any number of workers. One worker on this computer trains in this process;
more, and a cluster, take Ray. Exit code 0: the stage's weights are written. 2: refused. 3: the Ray
cluster went away. Codes of interruptions: `engine/command.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from engine.command import run_command
from engine.config import parse_job
from engine.training.config import TrainConfig
from engine.training.loop.check import check_stage
from engine.training.loop.here import fits_one_process, has_much_to_cache, train_here
from engine.training.stages.base import Survey


def main(args: Sequence[str]) -> int:
    """Parse, train, say where the weights are; return the exit code."""

    def job() -> int:
        config = parse_job(TrainConfig, args, "Train one stage.")
        found = check_stage(config)
        if fits_one_process(found.config):
            if has_much_to_cache(found):
                on_ray(found, cache_only=True)
            measured = train_here(found)
        else:
            measured = on_ray(found)
        print(
            f"{config.stage}: {measured['iterations']} steps in {measured['seconds']:.0f} s, "
            f"loss {measured['loss']}; weights in {config.weights}"
        )
        return 0

    return run_command(job, print)


def on_ray(found: Survey, *, cache_only: bool = False) -> dict[str, Any]:
    """Train with Ray, or only make the cache with it; measurements of the stage, or nothing."""
    from engine.parallel.start.session import RaySession  # takes seconds: not for one worker here
    from engine.training.loop.ray_train import fill_cache, train_stage

    with RaySession() as session:
        session.start(show_workers=True)
        if not cache_only:
            return train_stage(found)
        fill_cache(found)
        return {}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
