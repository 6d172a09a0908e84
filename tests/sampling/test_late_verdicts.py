"""A GPU's verdicts come batches later: volumes, failures and what is told stay the same."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.sampling.batching import loop
from engine.sampling.batching.verdict import Verdict
from engine.sampling.networks.latent_model import LatentModel
from tests.sampling.test_sample_many import load, mixed


class LateVerdict(Verdict):
    """As on a GPU that is far behind: there only when somebody waits."""

    is_there = False


@pytest.fixture(autouse=True)
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "Verdict", LateVerdict)


def test_volumes_and_windows_are_those_of_a_cpu(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: Counter[str] = Counter()
    ends: dict[str, tuple[int, int]] = {}

    def on_window(sample_id: str, done: int, total: int) -> None:
        told[sample_id] += 1
        assert done == told[sample_id]
        ends[sample_id] = (done, total)

    found = {o.sample_id: o.result() for o in load(weights).sample_many(mixed()[:4], on_window)}
    assert all(done == total == found[name].num_windows for name, (done, total) in ends.items())
    assert ends.keys() == found.keys()
    with monkeypatch.context() as at_once:
        at_once.setattr(loop, "Verdict", Verdict)
        for outcome in load(weights).sample_many(mixed()[:4]):
            assert np.array_equal(outcome.result().image, found[outcome.sample_id].image)


@pytest.mark.parametrize("bad_evaluation", [0, 1])
@pytest.mark.parametrize("ahead", [0, 2, 1000])
def test_a_volume_that_is_not_finite_fails_whenever_it_is_found_out(
    weights: Path, monkeypatch: pytest.MonkeyPatch, ahead: int, bad_evaluation: int
) -> None:
    """Even when its image is there before: v2 (22 slices) is bad at its last window alone."""
    real = LatentModel.denoise

    def poisoned(self: LatentModel, items: Sequence[Any], conditions: Sequence[Any]) -> Any:
        result = real(self, items, conditions)
        return [
            x * torch.nan
            if item.volume == 3 and item.window.start == 0 and item.evaluation == bad_evaluation
            else x
            for item, x in zip(items, result, strict=True)
        ]

    monkeypatch.setattr(loop, "AHEAD", ahead)
    monkeypatch.setattr(LatentModel, "denoise", poisoned)
    ended = list(load(weights, max_windows=4).sample_many(mixed()[:4]))
    outcomes = {outcome.sample_id: outcome for outcome in ended}
    assert len(ended) == len(outcomes) == 4
    message = rf"v2: latents of slices 0 to 5 are not finite at step {bad_evaluation + 1} of 2"
    with pytest.raises(Exception, match=message):
        outcomes["v2"].result()
    for name in ("v0", "v1", "v3"):
        assert np.isfinite(outcomes[name].result().image).all()
