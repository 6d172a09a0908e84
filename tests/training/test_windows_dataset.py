"""Training examples: contiguous windows, plausible known slices, weights and reproducible order."""

import pytest
import torch

from engine.errors import TrainingError
from engine.training.examples.encoding import LatentCase
from engine.training.examples.randomness import example_generators
from engine.training.examples.windows import LatentDataset


def numbers(step: int, count: int, seed: int = 0) -> list[torch.Generator]:
    return example_generators(seed, "test", step, range(count))


def case(name: str, num_slices: int, value: float = 0.0) -> LatentCase:
    """Latents of slice z hold `value + z`, with a posterior of no width."""
    mean = value + torch.arange(num_slices).float()[:, None, None, None].expand(-1, 2, 4, 4)
    narrow = torch.full_like(mean, -60.0)
    height = torch.arange(num_slices).float()[:, None, None].expand(-1, 2, 3)
    mask = mean[:, :1].contiguous().half()
    return LatentCase(name, mean.contiguous(), narrow, mask, height.contiguous())


def test_windows_are_contiguous_and_mask_and_heights_belong_to_them() -> None:
    data = LatentDataset([case("a", 30)], window=8, max_overlap=3, weight={})
    for step in range(20):
        batch = data.batch(numbers(step, 2))
        assert batch.num_slices == 8
        told = batch.conditions
        z = batch.x_0[:, 0, 0, 0]
        torch.testing.assert_close(told.mask[:, 0, 0, 0], z)
        torch.testing.assert_close(told.heights[:, 0], z / 29)
        torch.testing.assert_close(z.reshape(2, 8).diff(dim=1), torch.ones(2, 7))
        informed = told.informed[:, 0, 0, 0]
        torch.testing.assert_close(told.heights[:, 1], informed / 29)
        assert (informed.reshape(2, 8).diff(dim=1) == 0).all()
        seen = told.appearance[:, 0, 0]
        assert (((seen - informed).abs() < 1e-4) | (seen == 0)).all(), "its own, or not known"


def test_known_slices_lie_at_the_ends_and_never_fill_a_window() -> None:
    data = LatentDataset([case("a", 30)], window=8, max_overlap=3, weight={})
    seen = set()
    for step in range(200):
        known = data.batch(numbers(step, 1)).conditions.known
        seen.add((bool(known[0]), bool(known[-1])))
        assert not known.all()
        assert known[:4].int().diff().max() <= 0, "known at the left end only as a block"
        assert known[4:].int().diff().min() >= 0
        assert known.sum() <= 6
    assert seen == {(False, False), (True, False), (False, True), (True, True)}


def test_single_slices_are_never_known() -> None:
    data = LatentDataset([case("a", 5)], window=1, max_overlap=3, weight={})
    batch = data.batch(numbers(0, 6))
    assert batch.num_slices is None
    assert not batch.conditions.known.any()
    assert batch.x_0.shape == (6, 2, 4, 4)


def test_weights_say_how_often_a_case_is_drawn() -> None:
    cases = [case("a", 8, 0.0), case("b", 8, 100.0)]
    data = LatentDataset(cases, window=8, max_overlap=3, weight={"b": 4.0})
    of_b = sum(bool(x >= 100) for x in data.batch(numbers(0, 300)).x_0[::8, 0, 0, 0])
    assert 210 < of_b < 270


def test_the_same_seed_gives_the_same_order() -> None:
    first, again, other = (
        LatentDataset([case("a", 40)], 8, 3, {}).batch(numbers(0, 4, seed)).x_0
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_short_cases_are_counted_and_all_short_is_refused() -> None:
    data = LatentDataset([case("a", 30), case("b", 5)], 8, 3, {})
    assert data.num_skipped == 1
    with pytest.raises(TrainingError, match="none of 1 cases has the 8 slices"):
        LatentDataset([case("b", 5)], 8, 3, {})


def test_examples_depend_on_their_number_and_not_on_their_batch() -> None:
    data = LatentDataset([case("a", 40), case("b", 30)], 8, 3, {})
    together = data.batch(numbers(3, 4))
    apart = [data.batch([g]) for g in numbers(3, 4)]
    assert torch.equal(together.x_0, torch.cat([batch.x_0 for batch in apart]))
    for name in ("mask", "informed", "heights", "known", "appearance"):
        parts = torch.cat([getattr(batch.conditions, name) for batch in apart])
        assert torch.equal(getattr(together.conditions, name), parts)


def test_moved_copies_have_the_weight_of_their_case() -> None:
    cases = [case("a", 8), case("b", 8, 100.0), case("b+1", 8, 200.0)]
    x_0 = LatentDataset(cases, 8, 3, {"b": 2.0}).batch(numbers(0, 300)).x_0[::8, 0, 0, 0]
    assert 80 < int((x_0 >= 190).sum()) < 160


def test_windows_of_three_have_no_known_slices() -> None:
    batch = LatentDataset([case("a", 9)], 3, 4, {}).batch(numbers(0, 50))
    assert not batch.conditions.known.any()


def test_a_pinned_window_holds_its_informed_slice_as_the_known_one() -> None:
    data = LatentDataset([case("a", 30)], window=8, max_overlap=3, weight={}, pinned_share=1.0)
    rows = set()
    for step in range(100):
        batch = data.batch(numbers(step, 1))
        known = batch.conditions.known
        assert known.sum() == 1
        row = int(known.nonzero())
        rows.add(row)
        assert torch.equal(batch.x_0[row], batch.conditions.informed[row])
    assert rows == set(range(8)), "anywhere in the window"


def test_without_pinning_the_draws_are_as_they_were() -> None:
    plain = LatentDataset([case("a", 30)], window=8, max_overlap=3, weight={})
    none = LatentDataset([case("a", 30)], window=8, max_overlap=3, weight={}, pinned_share=0.0)
    some = LatentDataset([case("a", 30)], window=8, max_overlap=3, weight={}, pinned_share=0.5)
    first, second, third = (d.batch(numbers(0, 4)).x_0 for d in (plain, none, some))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    slices = LatentDataset([case("a", 5)], window=1, max_overlap=3, weight={}, pinned_share=0.5)
    assert not slices.batch(numbers(0, 6)).conditions.known.any()
