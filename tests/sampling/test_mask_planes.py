"""Distinct planes of masks are encoded once, within a mask and over masks."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.sampling.networks.mask_planes import MaskPlanes
from engine.sampling.networks.transfers import host_room, to_device

CPU = torch.device("cpu")


class Encoder:
    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, planes: Tensor, num: int) -> Tensor:
        self.batches.append(len(planes))
        return (
            planes.float()[:, None, ::2, ::2] * 2.0
            + planes.float().mean((1, 2))[:, None, None, None]
        )


def mask(*fillings: int) -> NDArray[np.uint8]:
    planes = np.zeros((len(fillings), 6, 6), np.uint8)
    for plane, filling in zip(planes, fillings, strict=True):
        plane[filling % 6, 1:4] = filling
    return planes


def by_hand(planes: NDArray[np.uint8]) -> Tensor:
    return Encoder()(torch.from_numpy(planes), len(planes))


def test_equal_planes_are_encoded_once() -> None:
    encoder = Encoder()
    planes = MaskPlanes(encoder, CPU)
    first = mask(0, 0, 3, 4, 3, 0)
    assert torch.equal(planes.encoded(first, 2), by_hand(first))
    assert encoder.batches == [2, 1]


def test_another_mask_adds_only_what_is_new_in_it() -> None:
    encoder = Encoder()
    planes = MaskPlanes(encoder, CPU)
    planes.encoded(mask(0, 3, 4), 8)
    turned = mask(4, 3, 5, 0)
    assert torch.equal(planes.encoded(turned, 8), by_hand(turned))
    assert torch.equal(planes.encoded(turned, 8), by_hand(turned))
    assert encoder.batches == [3, 1]


def test_what_is_kept_is_bounded_and_the_oldest_goes_first() -> None:
    encoder = Encoder()
    a_plane = 36 + 4 * 9
    planes = MaskPlanes(encoder, CPU, kept_mb=2 * a_plane / 2**20)
    large = mask(1, 2, 3, 4)
    assert torch.equal(planes.encoded(large, 8), by_hand(large)), "more planes than are kept"
    planes.encoded(mask(3, 4), 8)
    assert encoder.batches == [4]
    planes.encoded(mask(1), 8)
    assert encoder.batches == [4, 1]


def test_transfers_on_a_cpu_change_nothing() -> None:
    values = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(to_device(values[:, ::2], CPU).numpy(), values[:, ::2])
    assert host_room((2, 3), torch.float32, CPU).shape == (2, 3)
