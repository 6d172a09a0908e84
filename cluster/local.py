"""A Ray cluster on this computer: `up`, `status`, `down`, or `run` for the length of one job.

    eval "$(python -m cluster.local up)"    # then `ray job submit` and `python jobs/...` use it
    python -m cluster.local run -- jobs/resample_abdomen.py --out runs/mine

Jobs go the same way as to a real cluster: through Ray's job submission, with token authentication.
Everything listens on 127.0.0.1 only. Knows nothing of what a job does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import sys
from argparse import REMAINDER, ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from cluster.head import ClusterError, Head, default_folder, find, start, stop, token_path
from engine.errors import EngineError
from engine.parallel.computer.private_folder import fresh_folder

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

DEFAULT_OBJECT_STORE_MB = 512
_OTHER_TOKEN = "RAY_AUTH_TOKEN"  # Ray would show it instead of the cluster's own  # noqa: S105
# what `up` exports and nothing but its cluster needs
_RAYS_NAMES = (
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN_PATH",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
)


def main(args: Sequence[str]) -> int:
    """Do what the command line says; return the exit code (for `run`, the job's)."""
    options = _parser().parse_args(args)
    try:
        return int(options.action(options))
    except EngineError as error:
        _say(str(error))
        return 2


def up(options: Namespace) -> int:
    """Start a cluster that stays until `down`; print the lines that point a shell at it."""
    folder = default_folder()
    head = find(folder)
    if head is None:
        _say("starting Ray on 127.0.0.1 ...")
        head = _start(folder, options, owner=None)
        _say(f"Ray is up; dashboard at {head.api}, token in {folder}/token")
    else:
        _say(f"Ray is already up; dashboard at {head.api}")
    for key, value in head.client_env().items():
        print(f"export {key}={shlex.quote(value)}")
    if _OTHER_TOKEN in os.environ:
        print(f"unset {_OTHER_TOKEN}")
    _say('paste these lines, or use `eval "$(python -m cluster.local up)"`; end it with `down`')
    return 0


def down(_options: Namespace) -> int:
    """End the cluster that `up` started; print the line that lets a shell forget it."""
    folder = default_folder()
    head = find(folder)
    if head is None:
        _say("no cluster of this folder is up")
    else:
        stop(head)
        _say("Ray is down")
    if head or os.environ.get("RAY_AUTH_TOKEN_PATH") == str(token_path(folder)):
        print(f"unset {' '.join(_RAYS_NAMES)}")
        _say(
            "a shell that used it forgets it by this line, or by "
            '`eval "$(python -m cluster.local down)"`'
        )
    return 0


def status(_options: Namespace) -> int:
    """Say whether the cluster is up: exit code 0 if so, else 3."""
    head = find(default_folder())
    if head is None:
        _say("no cluster of this folder is up; start one with `python -m cluster.local up`")
        return 3
    keeper = head.keeper()
    count = len(keeper.children(recursive=True)) if keeper else 0
    _say(f"up, {count} processes; dashboard at {head.api}")
    return 0


def run(options: Namespace) -> int:
    """Start a cluster of its own, submit the job, show its log, always take the cluster down."""
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise ClusterError("no job given; write `run -- jobs/NAME.py ARGS`")
    if command[0].endswith(".py") and not Path(command[0]).is_file():
        raise ClusterError(
            f"{Path(command[0]).absolute()}: no such job; write `run -- jobs/NAME.py ARGS` in the "
            "checkout's folder"
        )
    entrypoint = ["python", *command] if command[0].endswith(".py") else list(command)
    folder = fresh_folder()
    head: Head | None = None
    code = 128 + signal.SIGINT
    try:
        with _sigterm_as_exit():
            _say("starting Ray on 127.0.0.1 ...")
            head = _start(folder, options, owner=os.getpid())
            os.environ.update(head.client_env())
            os.environ.pop(_OTHER_TOKEN, None)
            code = _submit(head.api, entrypoint)
    except KeyboardInterrupt:
        _say("interrupted")
    finally:
        _take_down(head)
        shutil.rmtree(folder, ignore_errors=True)
    return code


def _start(folder: Path, options: Namespace, *, owner: int | None) -> Head:
    return start(
        folder,
        num_cpus=options.num_cpus,
        object_store_mb=options.object_store_mb,
        owner=owner,
    )


def _submit(api: str, entrypoint: Sequence[str]) -> int:
    """Submit the job, show its log until it ends, and return its exit code."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient(api)
    job_id = client.submit_job(entrypoint=shlex.join(entrypoint))
    try:
        asyncio.run(_show_log(client, job_id))
    except BaseException:
        with contextlib.suppress(Exception):
            client.stop_job(job_id)
        raise
    info = client.get_job_info(job_id)
    if info.status == JobStatus.SUCCEEDED:
        return 0
    _say(f"the job {info.status.value.lower()}: {info.message or 'no message'}")
    return info.driver_exit_code or 1


async def _show_log(client: JobSubmissionClient, job_id: str) -> None:
    async for lines in client.tail_job_logs(job_id):
        print(lines, end="", flush=True)


def _take_down(head: Head | None) -> None:
    """Stop the cluster, deaf to further Ctrl-C: stopping halfway would leave processes behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if head is not None:
        stop(head)


@contextlib.contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    yield


def _say(text: str) -> None:
    """Words for a person go to stderr, so that stdout can be evaluated by a shell."""
    print(text, file=sys.stderr, flush=True)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m cluster.local", description="A Ray cluster on this computer."
    )
    actions = parser.add_subparsers(required=True, metavar="{up,status,down,run}")
    for action in (up, status, down, run):
        text = (action.__doc__ or "").strip()
        one = actions.add_parser(action.__name__, help=text, description=text)
        one.set_defaults(action=action)
        if action in (up, run):
            one.add_argument("--num-cpus", type=int, help="CPUs to offer (default: all)")
            one.add_argument(
                "--object-store-mb",
                type=int,
                default=DEFAULT_OBJECT_STORE_MB,
                help="shared memory for objects in MiB (default: %(default)s)",
            )
        if action is run:
            one.add_argument("command", nargs=REMAINDER, help="-- jobs/NAME.py ARGS")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
