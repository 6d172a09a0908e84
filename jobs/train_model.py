#!/usr/bin/env python
"""Train one stage of a model: autoencoder, slice, volume, position or distill.

    python jobs/train_model.py --stage autoencoder --data prepared/abdomen_ct --weights runs/weights

Each stage adds its weights to the folder; the next stage reads them there. `distill` reads its
teacher from `--start-from` and writes a folder of its own. A stage that was broken off goes on from
its last checkpoint, with any number of workers. Exit code 0: the stage's weights are written. 2:
refused.
3: the Ray cluster went away. Codes of interruptions: `engine/command.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from engine.command import run_command
from engine.config import parse_job
from engine.parallel.start.session import RaySession
from engine.training.config import TrainConfig
from engine.training.loop.ray_train import check_stage, train_stage


def main(args: Sequence[str]) -> int:
    """Parse, train, say where the weights are; return the exit code."""

    def job() -> int:
        config = parse_job(TrainConfig, args, "Train one stage.")
        found = check_stage(config)
        with RaySession() as session:
            session.start(show_workers=True)
            measured = train_stage(found)
        print(
            f"{config.stage}: {measured['iterations']} steps in {measured['seconds']:.0f} s, "
            f"loss {measured['loss']}; weights in {config.weights}"
        )
        return 0

    return run_command(job, print)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
