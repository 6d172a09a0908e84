"""What Ray says to itself does not reach the user; everything else does."""

import os

import pytest
import ray

from engine.parallel.start.quiet import show_workers_without_noise, without_greeting

LEVEL = (
    "[2026-11-26 04:00:00,000 I 1 1] logging.cc:303: Set ray log level from environment variable"
)
STATE = "Failed to query Ray Train Controller actor state. State API may be unavailable"


def test_the_greeting_is_held_back_and_the_rest_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with without_greeting():
        os.write(2, f"{LEVEL} RAY_BACKEND_LOG_LEVEL to 3\nan error of the core\n".encode())
    after = capfd.readouterr().err
    assert "an error of the core\n" in after
    assert "log level" not in after


def test_an_error_while_ray_starts_is_raised_and_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="no Ray"), without_greeting():
        os.write(2, b"why\n")
        raise RuntimeError("no Ray")
    assert capfd.readouterr().err == "why\n"


def test_workers_lines_are_shown_without_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher = ray._private.ray_logging.global_worker_stdstream_dispatcher
    shown: list[list[str]] = []
    monkeypatch.setattr(dispatcher, "handlers", [("a", lambda data: shown.append(data["lines"]))])
    show_workers_without_noise()
    worker = {"actor_name": "RayTrainWorker", "is_err": True}
    dispatcher.emit({**worker, "lines": [LEVEL, "step 3 of 9"]})  # type: ignore[no-untyped-call]
    dispatcher.emit({**worker, "lines": [LEVEL]})  # type: ignore[no-untyped-call]
    dispatcher.emit(  # type: ignore[no-untyped-call]
        {**worker, "lines": [STATE, "Traceback"], "actor_name": "PlacementGroupCleaner"}
    )
    assert shown == [["step 3 of 9"]]
