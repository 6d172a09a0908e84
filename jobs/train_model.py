#!/usr/bin/env python
"""Train one stage of a model: autoencoder, slice or volume."""

import sys
from pathlib import Path

from engine.config import load_config
from engine.errors import EngineError
from engine.log import get_logger, show_log
from engine.runs.session import RaySession
from engine.training.config import TrainConfig
from engine.training.loop import train_stage

log = get_logger("engine.jobs")


def main(args: list[str]) -> int:
    """Parse, train, tell; 0 when the stage's weights are written, 2 when it was refused."""
    show_log()
    try:
        yaml_path = Path(args[args.index("--config") + 1]) if "--config" in args else None
        if yaml_path is not None:
            at = args.index("--config")
            args = args[:at] + args[at + 2 :]
        config = load_config(TrainConfig, yaml_path, args, description=__doc__)
        with RaySession() as session:
            session.start()
            measured = train_stage(config)
    except EngineError as error:
        log.error("%s", error)
        return 2
    log.info("%s: %s; weights in %s", config.stage, measured, config.weights)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
