"""Other people's networks run on any CPU in their small form, and are compared by what they did."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench_peers import compared, main


@pytest.mark.slow
def test_small_forms_of_maisi_and_the_autoencoder_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("monai")
    out = tmp_path / "peers.json"
    assert main(["--quick", "--device", "cpu", "--repeats", "1", "--part", "maisi", "kl_f8",
                 "--out", str(out)]) == 0  # fmt: skip
    found = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found
    assert found["maisi"]["num_slices"] == 32
    assert found["maisi"]["denoise_s"] == pytest.approx(2 * found["maisi"]["step_s"], abs=2e-3)
    assert found["kl_f8"]["size_px"] == 64
    assert found["kl_f8"]["decode_ms_a_slice"] > 0.0
    assert found["compared"] == {}


def test_speed_is_told_a_slice_an_evaluation_and_at_equal_steps() -> None:
    row = {"preset": "gem3d_512", "ms_a_slice": 12.0, "ms_a_window_step": 16.0}
    found: dict[str, Any] = {
        "maisi": {"ms_a_slice": 36.0, "ms_a_slice_and_evaluation": 0.5},
        "engine": {
            "one": {**row, "ms_a_slice": 18.0},
            "many": row,
            "equal_steps": {**row, "ms_a_slice": 72.0},
        },
    }
    figures = compared(found)
    assert figures["times_maisi"] == 3.0
    assert figures["times_maisi_alone"] == 2.0
    assert figures["times_maisi_equal_steps"] == 0.5
    assert figures["engine_ms_a_slice_and_evaluation"] == 1.0
    assert figures["times_maisi_an_evaluation"] == 0.5
    found["engine"]["many"] = {"error": "OutOfMemoryError"}
    assert compared(found) == {}
