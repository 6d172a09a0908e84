"""Slices in filled-up, recorded batches give what they give alone."""

import pytest
import torch
from torch import Tensor

from engine.sampling.batching.fitting import FittingSlices
from engine.sampling.networks.slice_batches import SliceBatches
from tests.sampling.played import FailingRecording, PlayedRecording


class Network:
    def __init__(self, most: int = 1000) -> None:
        self.sizes: list[int] = []
        self.most = most

    def __call__(self, rows: Tensor) -> Tensor:
        if len(rows) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.sizes.append(len(rows))
        return rows[:, 0] * 2.0 + 1.0


def rows(num: int, seed: int = 0) -> Tensor:
    return torch.randn(num, 2, 3, generator=torch.Generator().manual_seed(seed))


def test_every_batch_has_one_size_and_its_own_results() -> None:
    network, made = Network(), list[PlayedRecording]()

    def make() -> PlayedRecording:
        made.append(PlayedRecording())
        return made[-1]

    batches = SliceBatches(network, make)
    for seed, num in enumerate((4, 4, 1, 3, 4)):
        told = rows(num, seed)
        assert torch.equal(batches(told, 4), told[:, 0] * 2.0 + 1.0)
    assert set(network.sizes) == {4}
    assert [(r.num_recorded, r.num_replayed) for r in made] == [(1, 4)]
    assert torch.equal(batches(rows(2), 2), rows(2)[:, 0] * 2.0 + 1.0), "another size from here on"
    assert len(made) == 2


def test_without_recordings_nothing_is_filled_up() -> None:
    network = Network()
    assert torch.equal(SliceBatches(network)(rows(3), 8), rows(3)[:, 0] * 2.0 + 1.0)
    assert network.sizes == [3]


def test_what_cannot_be_recorded_is_computed_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    batches = SliceBatches(Network(), lambda: FailingRecording("operation not permitted"))
    for seed in range(3):
        assert torch.equal(batches(rows(3, seed), 4), rows(3, seed)[:, 0] * 2.0 + 1.0)
    assert caplog.text.count("launch by launch") == 1


def test_memory_that_runs_out_halves_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    network = Network(most=3)
    batches, fitting = SliceBatches(network, PlayedRecording), FittingSlices("decoding", 8)
    told = rows(7)

    def work(size: int) -> Tensor:
        return torch.cat([batches(part, size).clone() for part in torch.split(told, size)])

    assert torch.equal(fitting.run(work, "s"), told[:, 0] * 2.0 + 1.0)
    assert fitting.size == 2 and set(network.sizes) == {2}
    assert "decoding 4 slices at a time" in caplog.text
    assert "decoding 2 slices at a time" in caplog.text
