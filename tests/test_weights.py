"""What `models` refuses of weights files reaches the user as the engine's own error."""

import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import WeightsError
from engine.weights import read_manifest, weights_errors
from models.errors import WeightsFileError


def test_a_refusal_keeps_its_message() -> None:
    with (
        pytest.raises(WeightsError, match=r"^a\.bin: torn; copy it again$"),
        weights_errors(),
    ):
        raise WeightsFileError("a.bin: torn; copy it again")


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), weights_errors():
        raise KeyError("name")


def test_a_manifest_is_read_without_torch(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json"):
        read_manifest(tmp_path)
    code = "import sys, engine.weights; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
