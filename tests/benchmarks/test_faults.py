"""The short ones of the fault bench: those that need no cluster and no process of their own."""

import pytest

from bench_faults import strike
from faults.bench import Bench
from faults.registry import FAMILIES, FAULTS

SHORT = ("torn", "full disk", "read-only")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.make(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("name", SHORT)
def test_the_run_survives(bench: Bench, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = strike(bench, [FAULTS[name]])
    if result["skipped"]:
        pytest.skip(capsys.readouterr().out.strip())
    assert (result["survived"], result["lost"], result["duplicated"]) == (1, 0, 0)
    assert result["max_abs_diff"] <= 1e-3


def test_no_two_faults_share_a_name() -> None:
    assert sum(len(family) for family in FAMILIES) == len(FAULTS)
