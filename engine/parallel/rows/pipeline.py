"""The one place that wires Ray Data: rows in, a pool of workers, status rows out.

One row is one block, so that a lost worker costs the rows it held and no others. Rows enter Ray in
large blocks and are cut as workers come to them: an object of its own for each of 100,000 rows
would take minutes before the first volume, and books to keep on all of them. Workers catch
their own errors and return status rows; Ray retries only what was killed, and the ledger's attempt
counter ends that. Knows nothing of what a row means.
"""

from __future__ import annotations

import logging
import math
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.exceptions import RayError

from engine.errors import ClusterLostError, RunError
from engine.parallel.rows.attended import attended
from engine.parallel.rows.stalls import StallWatch
from engine.parallel.rows.tries import TryBook

Row = dict[str, Any]

_TASK_RETRIES = 1000  # the ledger ends what kills its worker; bystanders must outlive all of them
_ROWS_A_BLOCK = 100  # of those that wait in Ray; cut into rows when their turn comes
_ROWS_ON_GPU, _ROWS_ON_CPU = 8, 2


@dataclass(frozen=True)
class Pool:
    """How many workers, and what each holds.

    Attributes:
        num_workers: actors.
        num_cpus: CPUs a worker holds in Ray's books.
        num_gpus: GPUs a worker holds.
        num_threads: threads a worker computes with.
        rows_at_once: rows a worker holds; more than one needs an asynchronous worker.
        has_spare_cpu: whether a computer keeps a whole CPU, which cutting blocks needs.
        is_elastic: whether more workers start on computers that join later. Never where the user
            has said how many, or where a second worker would fit beside the first on one computer
            and leave no CPU there.
        disk: folder that the workers write to; a worker that cannot is seen as stalled.
        tries: for rows that have no ledger: ends what kills its worker.
        stall_timeout_s: a worker that makes no step for so long is ended, and its rows move; None
            only names it.
        private: whether only this user may read what the workers write.
    """

    num_workers: int
    num_cpus: float
    num_gpus: float
    num_threads: int
    rows_at_once: int = 1
    has_spare_cpu: bool = True
    is_elastic: bool = False
    disk: Path | None = None
    tries: TryBook | None = None
    stall_timeout_s: float | None = None
    private: bool = False


def choose_pool(
    num_workers: int | None,
    num_rows: int,
    nodes: Sequence[dict[str, float]],
    rows_at_once: int | None = None,
) -> Pool:
    """Size the pool: a worker a GPU, or without GPUs a worker a node, unless the user says.

    Workers never hold every CPU: Ray Data's own read tasks would wait for one for ever.

    Args:
        num_workers: the user's wish, or None.
        num_rows: more workers than rows are useless.
        nodes: resources ("CPU", "GPU") of each node.
        rows_at_once: the user's wish, or None.

    Raises:
        RunError: no node offers a CPU.
    """
    cpus = sorted(int(n.get("CPU", 0)) for n in nodes if n.get("CPU", 0) >= 1)
    gpus = int(sum(n.get("GPU", 0) for n in nodes))
    if not cpus:
        raise RunError("the Ray cluster offers no CPU; start it with --num-cpus 2 or more")
    workers = max(1, min(num_workers or gpus or len(cpus), num_rows))
    held_rows = rows_at_once or (_ROWS_ON_GPU if gpus else _ROWS_ON_CPU)
    held_rows = min(held_rows, math.ceil(num_rows / workers))
    if gpus:
        threads = max(1, sum(cpus) // max(gpus, workers))
        on_a_gpu = math.ceil(workers / gpus)
        spare = any(n.get("CPU", 0) - 0.5 * on_a_gpu * n.get("GPU", 0) >= 1 for n in nodes)
        share = min(1.0, gpus / workers)
        return Pool(workers, 0.5, share, threads, held_rows, spare, num_workers is None)
    per_node = math.ceil(workers / len(cpus))
    share = (cpus[0] - 1) / per_node
    held = float(math.floor(share)) if share >= 1 else max(0.01, math.floor(share * 100) / 100)
    held = held if cpus[0] > 1 else 0.5 / per_node
    fills_a_node = num_workers is None and 2 * held > cpus[0]
    threads = max(1, cpus[0] // per_node)
    return Pool(workers, held, 0.0, threads, held_rows, cpus[0] > 1, fills_a_node)


def node_resources() -> list[dict[str, float]]:
    """Resources of every living node of the cluster."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def run_rows(
    rows: Sequence[Row],
    worker: type[Callable[[Row], Any]],
    settings: Row,
    pool: Pool,
) -> Iterator[Row]:
    """Send every row through a pool of workers; yields what they return as it comes.

    Args:
        rows: flat dictionaries of plain values.
        worker: class; an instance is called with one row and returns one status row, or is an
            asynchronous generator that yields it (with `pool.rows_at_once` of them at once).
        settings: keyword arguments of its constructor.
        pool: from `choose_pool`.

    Raises:
        ClusterLostError: the pipeline itself broke (a worker cannot start, nodes keep dying).
    """
    _quieten()
    context = DataContext.get_current()
    context.max_errored_blocks = 0
    context.execution_no_progress_timeout_s = -1  # a volume may take hours
    # full workers and rows that wait: then a computer that joined gets a worker, too
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    job = uuid.uuid4().hex
    held = attended(worker, job, pool.disk, pool.tries, pool.private)
    try:
        with StallWatch(job, pool.stall_timeout_s):
            yield from _pipeline(rows, held, settings, pool)
    except ClusterLostError:
        raise
    except (RayError, RuntimeError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
        raise ClusterLostError(
            f"the workers stopped ({type(error).__name__}: {lines[-1].strip()}); what is committed "
            "stays, start the job again for the rest"
        ) from error


def _pipeline(
    rows: Sequence[Row], worker: type[Callable[[Row], Any]], settings: Row, pool: Pool
) -> Iterator[Row]:
    at_once = pool.rows_at_once
    more: Row = {"max_concurrency": at_once} if at_once > 1 else {}
    with warnings.catch_warnings():
        # Ray 2.60 has no other way yet to bound retries, and its default is to retry for ever
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        work = _one_row_a_block(rows, pool).map(
            worker,  # type: ignore[arg-type]  # a class whose instances are the function
            fn_constructor_kwargs=settings,
            compute=ActorPoolStrategy(
                min_size=pool.num_workers,
                max_size=None if pool.is_elastic else pool.num_workers,
                max_tasks_in_flight_per_actor=at_once if at_once > 1 else None,
            ),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus,
            max_task_retries=_TASK_RETRIES,
            **more,
        )
    yield from work.iter_rows()


def _one_row_a_block(rows: Sequence[Row], pool: Pool) -> Dataset:
    if not pool.has_spare_cpu:  # computers of one CPU: the driver cuts, which takes no task
        return ray.data.from_items(list(rows), override_num_blocks=len(rows))
    blocks = ray.data.from_items(
        list(rows), override_num_blocks=math.ceil(len(rows) / _ROWS_A_BLOCK)
    )
    return blocks.repartition(target_num_rows_per_block=1)


def _quieten() -> None:
    """Ray Data's own bars and reports off: progress comes from the run's own events."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    context.verbose_stats_logs = False
    for name in ("ray.data", "ray.data.dataset"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.data.exceptions").setLevel(logging.CRITICAL + 1)  # traces; ours say it
