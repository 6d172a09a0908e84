#!/usr/bin/env python
"""Re-read every committed byte of a run and say what is damaged.

    python jobs/verify_run.py --run runs/mine
    python jobs/verify_run.py --run runs/mine --repair             # then start its job again
    python jobs/verify_run.py --run runs/mine --derived-from pat7  # which volumes is pat7 part of?
    python jobs/verify_run.py --run runs/mine --withdraw pat7      # remove pat7 for good

Exit code 0: nothing damaged is left. 1: damage was found (and not repaired), or
files of deleted volumes cannot be removed. 2: refused. Codes of interruptions: `engine/command.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from engine.command import run_command
from engine.config import parse_job
from engine.errors import printable
from engine.runs.audit.verify import Verdict, VerifyJob, derived_from, open_run, verify_run
from engine.runs.audit.withdraw import Withdrawal, withdraw_patient

_SHOWN = 50


def main(args: Sequence[str]) -> int:
    """Parse, verify, show a table; return the exit code."""
    return run_command(lambda: _work(parse_job(VerifyJob, args, "Verify a run.")), print)


def _work(job: VerifyJob) -> int:
    if job.derived_from is not None:
        return _list(job, job.derived_from)
    if job.withdraw is not None:
        _show_withdrawal(withdraw_patient(open_run(job.run), job.withdraw))
        return 0
    verdict = verify_run(job)
    _show(verdict)
    return 0 if verdict.is_sound and not verdict.undeleted else 1


def _list(job: VerifyJob, case_id: str) -> int:
    rows = derived_from(open_run(job.run), case_id)
    print(f"{'volume':40s} {'mask of':24s} informed slice of")
    for row in rows:
        uses = f"{row.case_id:24s} {row.informed_case}, z {row.informed_z}"
        print(printable(f"{row.sample_id:40s} {uses}"))
    print(f"{len(rows)} planned volumes use {case_id}")
    return 0


def _show_withdrawal(gone: Withdrawal) -> None:
    patient = gone.patient
    print(printable("\n".join(gone.samples)))
    names = printable(", ".join(patient.names))
    print(f"{len(gone.samples)} volumes of {printable(patient.name)} ({names}) withdrawn")
    if patient.others:
        print(printable(f"not withdrawn: {', '.join(patient.others)} of the same patient"))
    print("report, summary and table are removed: the run's job makes them anew without them")
    print(gone.kept)
    print("outside the run, and yours to delete:")
    for line in gone.outside:
        print(printable(f"  {line}"))


def _show(verdict: Verdict) -> None:
    found = [*verdict.findings, *verdict.foreign]
    if found:
        print(f"{'volume':40s} {'finding':20s} where")
    for finding in found[:_SHOWN]:
        print(printable(f"{finding.sample_id or '-':40s} {finding.kind:20s} {finding.detail}"))
    if len(found) > _SHOWN:
        print(f"... and {len(found) - _SHOWN} more")
    if verdict.leftovers:
        print(f"{len(verdict.leftovers)} volumes without a commit record (they do not exist)")
    print(
        f"{verdict.planned} planned, {verdict.committed} committed, {verdict.sound} sound, "
        f"{len({f.sample_id for f in verdict.findings})} damaged, {len(verdict.repaired)} deleted"
    )
    if verdict.undeleted:
        print(f"{len(verdict.undeleted)} files of deleted volumes cannot be removed:")
        for told in verdict.undeleted[:_SHOWN]:
            print(printable(f"  {told}"))
    if verdict.foreign:
        print(
            f"{len(verdict.foreign)} foreign files, which harm nothing; "
            + (f"{len(verdict.removed)} removed" if verdict.removed else "--repair removes them")
        )
    if verdict.repaired:
        print("start the run's job again to make the deleted volumes anew")
    elif verdict.findings:
        print("--repair deletes the damaged volumes, so that the run's job makes them again")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
