"""The end of a generating job: summary and report of what is committed by then."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from engine.log import get_logger
from engine.runs.jobs.job import Job, JobCases, Outcome
from engine.runs.making.worker import peak_memory_mb
from engine.runs.planning.method import method_title
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import RunIdentity
from engine.runs.record.plan import PlanRow
from engine.runs.record.records import Commit
from engine.runs.record.status import RunState, active_rows, read_state
from engine.runs.report.page import write_report
from engine.runs.report.summary import JobFacts, RunSummary, summarize
from engine.storage.checked_files import read_model
from engine.storage.files import gather, put, whole_file

log = get_logger(__name__)


def earlier_summary(folder: RunFolder) -> RunSummary | None:
    """What the last job wrote; one that is damaged is written anew."""
    try:
        return read_model(RunSummary, folder.summary)
    except (FileNotFoundError, ValueError):
        return None


def log_nothing_to_do(folder: RunFolder, state: RunState) -> None:
    """Say that every volume exists or is quarantined."""
    if state.barred:
        log.info(
            "nothing to do: %d of %d volumes exist, %d are quarantined (%s); see %s",
            state.committed, state.planned, len(state.barred),
            ", ".join(state.barred[:20]), folder.failures,
        )  # fmt: skip
    else:
        log.info("nothing to do: all %d volumes exist already", state.planned)


def finish(
    job: Job, folder: RunFolder, cases: JobCases, identity: RunIdentity, started_s: float
) -> Outcome:
    """Summary and report from what is committed now."""
    gather(folder.failures)
    state = read_state(folder)

    def pairs() -> Iterator[tuple[PlanRow, Commit | None]]:
        for row in active_rows(folder):
            yield row, ledger.read_commit(folder, row.sample_id)

    log.info("drawing the report")
    facts = JobFacts(
        time.monotonic() - started_s,
        peak_memory_mb(),
        len(state.barred),
        state.skipped,
        state.withdrawn,
    )
    with whole_file(folder.table) as file:
        summary = summarize(pairs, facts, lambda v: print(v.model_dump_json(), file=file))
    title = method_title(job.title, job.config.method)
    report = write_report(
        folder, cases.data, identity, summary, job.config.num_pictured, cases.remarks, title
    )
    job.add_to_report(folder, cases)
    memory_mb = {**summary.peak_memory_mb, "driver": peak_memory_mb()}
    wall_s = round(time.monotonic() - started_s, 1)
    summary = summary.model_copy(update={"wall_s": wall_s, "peak_memory_mb": memory_mb})
    put(folder.summary, json.dumps(summary.model_dump(mode="json"), indent=1) + "\n")
    return Outcome(summary, report, worked=True)
