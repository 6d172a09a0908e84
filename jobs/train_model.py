#!/usr/bin/env python
"""Train one stage of a model: autoencoder, slice or volume.

    python jobs/train_model.py --stage autoencoder --data prepared/abdomen_ct --weights weights/mine

Each stage adds its weights to the folder; the next stage reads them there. A stage that was broken
off goes on from its last checkpoint. Exit code 0: the stage's weights are written. 2: refused.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from engine.config import load_config
from engine.errors import EngineError
from engine.log import show_log
from engine.runs.session import RaySession
from engine.training.config import TrainConfig
from engine.training.loop import train_stage


def main(args: Sequence[str]) -> int:
    """Parse, train, say where the weights are; return the exit code."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    known, rest = parser.parse_known_args(args)
    show_log()
    try:
        about = "Train one stage. --config FILE.yaml gives the settings to start from."
        config = load_config(TrainConfig, known.config, rest, description=about)
        with RaySession() as session:
            session.start(show_workers=True)
            measured = train_stage(config)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; start the same command again to go on", file=sys.stderr)
        return 130
    print(
        f"{config.stage}: {measured['iterations']} steps in {measured['seconds']:.0f} s, "
        f"loss {measured['loss']}; weights in {config.weights}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
