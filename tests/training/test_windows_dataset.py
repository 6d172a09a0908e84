"""Training examples: contiguous windows, plausible known slices, weights and reproducible order."""

import pytest
import torch

from engine.errors import TrainingError
from engine.training.latents import LatentCase
from engine.training.windows_dataset import LatentDataset


def case(name: str, num_slices: int, value: float = 0.0) -> LatentCase:
    """Latents of slice z hold `value + z`, with a posterior of no width."""
    mean = value + torch.arange(num_slices).float()[:, None, None, None].expand(-1, 2, 4, 4)
    narrow = torch.full_like(mean, -60.0)
    height = torch.arange(num_slices).float()[:, None, None].expand(-1, 2, 3)
    mask = mean[:, :1].contiguous().half()
    return LatentCase(name, mean.contiguous(), narrow, mask, height.contiguous())


def test_windows_are_contiguous_and_mask_and_heights_belong_to_them() -> None:
    data = LatentDataset([case("a", 30)], window=8, max_overlap=3, weight={}, seed=0)
    for _ in range(20):
        batch = data.batch(2)
        assert batch.num_slices == 8
        z = batch.x_0[:, 0, 0, 0]
        torch.testing.assert_close(batch.mask[:, 0, 0, 0], z)
        torch.testing.assert_close(batch.heights[:, 0], z / 29)
        torch.testing.assert_close(z.reshape(2, 8).diff(dim=1), torch.ones(2, 7))
        informed = batch.informed[:, 0, 0, 0]
        torch.testing.assert_close(batch.heights[:, 1], informed / 29)
        assert (informed.reshape(2, 8).diff(dim=1) == 0).all()
        seen = batch.appearance[:, 0, 0]
        assert (((seen - informed).abs() < 1e-4) | (seen == 0)).all(), "its own, or not known"


def test_known_slices_lie_at_the_ends_and_never_fill_a_window() -> None:
    data = LatentDataset([case("a", 30)], window=8, max_overlap=3, weight={}, seed=0)
    seen = set()
    for _ in range(200):
        known = data.batch(1).known
        seen.add((bool(known[0]), bool(known[-1])))
        assert not known.all()
        assert known[:4].int().diff().max() <= 0, "known at the left end only as a block"
        assert known[4:].int().diff().min() >= 0
        assert known.sum() <= 6
    assert seen == {(False, False), (True, False), (False, True), (True, True)}


def test_single_slices_are_never_known() -> None:
    data = LatentDataset([case("a", 5)], window=1, max_overlap=3, weight={}, seed=0)
    batch = data.batch(6)
    assert batch.num_slices is None
    assert not batch.known.any()
    assert batch.x_0.shape == (6, 2, 4, 4)


def test_weights_say_how_often_a_case_is_drawn() -> None:
    cases = [case("a", 8, 0.0), case("b", 8, 100.0)]
    data = LatentDataset(cases, window=8, max_overlap=3, weight={"b": 4.0}, seed=0)
    of_b = sum(bool(data.batch(1).x_0[0, 0, 0, 0] >= 100) for _ in range(300))
    assert 210 < of_b < 270


def test_the_same_seed_gives_the_same_order() -> None:
    first, again, other = (
        LatentDataset([case("a", 40)], 8, 3, {}, seed).batch(4).x_0 for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_short_cases_are_counted_and_all_short_is_refused() -> None:
    data = LatentDataset([case("a", 30), case("b", 5)], 8, 3, {}, 0)
    assert data.num_skipped == 1
    with pytest.raises(TrainingError, match="none of 1 cases has the 8 slices"):
        LatentDataset([case("b", 5)], 8, 3, {}, 0)
