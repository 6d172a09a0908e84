import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.making.progress import ProgressWatch, Tally, write_event
from engine.runs.record.folder import RunFolder
from tests.runs.fakes import LoadFake


def tally(events: list[tuple[str, str, float, int, int]], to_do: int = 4) -> Tally:
    result = Tally(planned=9, committed=9 - to_do, to_do=to_do)
    for event in events:
        result.take(*event)
    return result


def test_time_left_counts_volumes_and_windows() -> None:
    events = [("started", "a", 100.0, 0, 0), ("window", "a", 105.0, 1, 1)]
    line = tally(events).line(now_s=110.0, started_s=90.0)
    assert line == "5/9 volumes, 20 s elapsed, about 70 s left (a decoding)"
    events += [("committed", "a", 120.0, 0, 0), ("started", "b", 120.0, 0, 0)]
    line = tally(events).line(now_s=120.0, started_s=90.0)
    assert line == "6/9 volumes, 30 s elapsed, about 60 s left (a committed)"


def test_failures_are_told_and_count_as_done() -> None:
    line = tally([("started", "a", 0.0, 0, 0), ("failed", "a", 30.0, 0, 0)]).line(30.0, 0.0)
    assert line == "5/9 volumes, 1 failed, 30 s elapsed, about 90 s left (a failed)"


def test_nothing_is_promised_before_the_first_window() -> None:
    assert tally([]).line(7.0, 0.0) == "5/9 volumes, 7 s elapsed"


@pytest.mark.parametrize(("seconds", "message"), [(119, "119 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations_are_readable(seconds: float, message: str) -> None:
    events = [("started", "a", 0.0, 0, 0), ("committed", "a", seconds, 0, 0)]
    assert f"about {message} left" in tally(events, to_do=2).line(seconds, 0.0)


def test_the_watch_reads_new_events_only_and_skips_torn_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "progress.jsonl"
    write_event(path, "committed", "of an earlier job")
    caplog.set_level(logging.INFO, logger="engine.runs.making.progress")
    logging.getLogger("engine").propagate = True
    counts = Tally(planned=2, committed=1, to_do=1)
    with ProgressWatch(path, counts):
        write_event(path, "started", "b")
        with path.open("a") as file:
            file.write('{"event": "comm\n')
        write_event(path, "window", "b", 1, 2)
        write_event(path, "committed", "b")
    assert (counts.committed, counts.ended, counts.failed) == (2, 1, 0)
    assert "2/2 volumes" in caplog.text


def no_link(path: Path) -> None:
    path.symlink_to("/nonexistent/file")


@pytest.mark.parametrize("harm", [no_link, Path.mkdir, os.mkfifo])
def test_a_file_that_cannot_be_written_stops_nothing_and_the_driver_still_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], object]
) -> None:
    path = tmp_path / "progress.jsonl"
    harm(path)
    caplog.set_level(logging.INFO, logger="engine.runs.making.progress")
    logging.getLogger("engine").propagate = True
    counts = Tally(planned=2, committed=1, to_do=1)
    with ProgressWatch(path, counts) as watch:
        write_event(path, "started", "b")
        write_event(path, "committed", "b")
        watch.ended("b", "committed")
    assert (counts.committed, counts.ended) == (2, 1)
    assert caplog.text.count("cannot be written") == 1
    assert "2/2 volumes" in caplog.text


@pytest.mark.usefixtures("no_ray")
def test_a_run_whose_progress_cannot_be_written_is_finished(config: ResampleConfig) -> None:
    RunFolder(config.out).create()
    no_link(Path(str(config.out)) / "progress.jsonl")
    outcome = resample(config, LoadFake())
    assert (outcome.summary.committed, outcome.summary.failed) == (3, 0)


def test_an_end_that_worker_and_driver_tell_counts_once(tmp_path: Path) -> None:
    counts = Tally(planned=2, committed=0, to_do=2)
    path = tmp_path / "progress.jsonl"
    with ProgressWatch(path, counts) as watch:
        write_event(path, "failed", "a")
        watch.ended("a", "failed")
        watch.ended("b", "committed")
        path.write_text(path.read_text() + '{"event": "window", "sample_id": 1, "time": "x"}\n')
    assert (counts.committed, counts.ended, counts.failed) == (1, 2, 1)
