"""The bench of training steps on a device: its settings, and one row of a small stage."""

import pytest

from bench_training import main
from speed.training import TrainingSetting


def test_a_stage_of_a_command_line() -> None:
    assert TrainingSetting.parse("slice:8:bfloat16") == TrainingSetting("slice", 8, "bfloat16")
    assert TrainingSetting.parse("volume:1:float16:1").zero_stage == 1


@pytest.mark.slow
def test_steps_of_a_stage_and_of_one_that_does_not_exist(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "DS_ACCELERATOR"):
        monkeypatch.setenv(name, "")  # the bench sets them; this puts back what was
    code = main(["--device", "cpu", "--preset", "demo", "--steps", "1",
                 "--stages", "autoencoder:1:float32", "none:1:float32"])  # fmt: skip
    assert code == 1
    text = capsys.readouterr().out.splitlines()[-1]
    assert '"stage": "none"' in text
    assert '"steps_per_s"' in text
