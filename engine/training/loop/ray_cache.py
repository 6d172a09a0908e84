"""The cache of a stage made by Ray Data, a case a block: the bytes that one process would make."""

from __future__ import annotations

from typing import Any

from engine.errors import EngineError, TrainingError
from engine.log import get_logger
from engine.parallel.rows.pipeline import Pool, run_rows
from engine.parallel.rows.tries import TryBook
from engine.training.examples.cache import CachePlan, Encoder
from engine.training.examples.encoding import EncodeTask

log = get_logger(__name__)


def fill_on_ray(plan: CachePlan, num_workers: int, private: bool = False) -> int:
    """Make what is missing with Ray Data, a case a block; the number of folders made.

    Args:
        plan: what is needed.
        num_workers: encoders at once; less than all CPUs, which Ray Data's own tasks need.
        private: whether only this user may read what the workers write.

    Raises:
        TrainingError: cases that could not be encoded, by name and reason.
    """
    missing = plan.missing()
    if not missing:
        return 0
    log.info("making %s of %d cases and copies with Ray Data", plan.kind, len(missing))
    rows = [{"index": i, "name": task.name, "key": task.key} for i, task in enumerate(missing)]
    gpus = 1.0 if plan.device == "cuda" else 0.0
    tries = TryBook(missing[0].target.parent.absolute() / "attempts", "name", "key")
    tries.forgive()
    settings = {"plan": plan, "missing": missing}
    pool = Pool(min(num_workers, len(missing)), 1.0, gpus, 1, tries=tries, private=private)
    status = list(run_rows(rows, _CacheWorker, settings, pool))
    tries.close()
    failed = sorted(f"{row['name']}: {row['error']}" for row in status if row["error"])
    if failed:
        raise TrainingError(
            f"{len(failed)} of {len(missing)} cases cannot be encoded ({'; '.join(failed[:3])}); "
            "repair or remove them, the others are kept"
        )
    return len(missing)


class _CacheWorker:
    """Ray Data's worker: ids in, status rows out; arrays go straight to the disk."""

    def __init__(self, plan: CachePlan, missing: list[EncodeTask]) -> None:
        self.encoder, self.missing = Encoder(plan), missing

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        task = self.missing[int(row["index"])]
        try:
            self.encoder.make(task)
        except EngineError as error:
            return {"name": task.name, "error": str(error)}
        return {"name": task.name, "error": ""}

    def given_up(self, row: dict[str, Any], message: str) -> dict[str, Any]:
        """The status row of a case that is not tried again."""
        return {"name": str(row["name"]), "error": message}
