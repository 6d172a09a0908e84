"""The informed slice at its own place: there in the volume, and shown to the windows around it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import SamplingError
from engine.sampling.request import SampleRequest
from engine.sampling.sampler import Sampler
from models.weights.folder import read_manifest, write_manifest
from tests.sampling.tiny_model import FAST, request, write_tiny


def pinned_request() -> SampleRequest:
    return request(pinned=7)


def informed_again(sampler: Sampler) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The informed slice as the autoencoder brings it back."""
    informed = pinned_request().informed
    assert informed is not None
    latent = sampler.model.autoencoder.encode(torch.from_numpy(informed)[None, None]).mean
    planes: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = np.asarray(
        sampler.model.decode(latent, 1), np.float32
    )
    return np.asarray(planes[0])


def test_a_pinned_slice_is_in_the_volume_and_changes_its_neighbours(tmp_path: Path) -> None:
    weights = write_tiny(tmp_path)
    pinned, loose = (
        Sampler.load(weights, FAST.model_copy(update={"pin_informed": pin}))
        for pin in ("yes", "no")
    )
    made, free = (s.sample(pinned_request()).image for s in (pinned, loose))
    np.testing.assert_allclose(made[7], informed_again(pinned), atol=1e-4)
    assert np.abs(made[7] - free[7]).max() > 0.01
    assert np.abs(made[8] - free[8]).max() > 1e-4, "its neighbour has seen it"


def test_pinning_is_for_weights_that_were_trained_for_it(tmp_path: Path) -> None:
    weights = write_tiny(tmp_path)
    assert FAST.resolved(read_manifest(weights)).pin_informed == "no"
    manifest = read_manifest(weights)
    trained = manifest.model_copy(update={"stages": {"volume": {"pinned_share": 0.3}}})
    write_manifest(weights, trained)
    assert FAST.resolved(read_manifest(weights)).pin_informed == "yes"
    replaced = FAST.model_copy(update={"known_slices": "replacement"})
    assert replaced.resolved(trained).pin_informed == "no"


def test_a_slice_of_another_patient_is_never_pinned(tmp_path: Path) -> None:
    sampler = Sampler.load(write_tiny(tmp_path), FAST.model_copy(update={"pin_informed": "yes"}))
    other = replace(pinned_request(), pinned=None)
    made = sampler.sample(other).image
    assert np.abs(made[7] - informed_again(sampler)).max() > 0.01


@pytest.mark.parametrize("z", [-1, 15])
def test_a_place_outside_the_volume_is_refused(tmp_path: Path, z: int) -> None:
    sampler = Sampler.load(write_tiny(tmp_path), FAST)
    with pytest.raises(SamplingError, match="cannot be pinned"):
        sampler.sample(request(pinned=z))
