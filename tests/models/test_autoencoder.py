"""Autoencoder and mask encodings."""

import torch

from models.autoencoder import Autoencoder
from models.conditions import Conditions
from models.denoiser.packing import fade_noisy, pack_channels
from models.mask_encoding import class_appearance, encode_mask, paint_mask
from models.presets import PRESETS

DEMO = PRESETS["demo"]


def test_latents_have_unit_statistics_once_they_are_measured() -> None:
    torch.manual_seed(0)
    model = Autoencoder(DEMO.autoencoder).eval()
    images = torch.rand(4, 1, 64, 64) * 2 - 1
    with torch.no_grad():
        raw = model.encode(images)
        std, mean = torch.std_mean(raw.mean, dim=(0, 2, 3))
        model.set_statistics(mean, std)
        scaled = model.encode(images)
        std, mean = torch.std_mean(scaled.mean, dim=(0, 2, 3))
        torch.testing.assert_close(mean, torch.zeros(8), atol=1e-4, rtol=0)
        torch.testing.assert_close(std, torch.ones(8), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            model.decode(scaled.mean), model.net.decode(raw.mean).sample, atol=1e-4, rtol=1e-4
        )
    # the posterior's width is scaled with its mean
    ratio = torch.exp(0.5 * (scaled.log_variance - raw.log_variance)).mean(dim=(0, 2, 3))
    torch.testing.assert_close(ratio, model.scale, atol=1e-4, rtol=1e-4)


def test_a_three_channel_autoencoder_takes_and_returns_grey() -> None:
    spec = DEMO.autoencoder.model_copy(update={"image_channels": 3})
    model = Autoencoder(spec).eval()
    with torch.no_grad():
        latents = model.encode(torch.zeros(2, 1, 32, 32)).mean
        assert latents.shape == (2, 8, 4, 4)
        assert model.decode(latents).shape == (2, 1, 32, 32)


def test_one_hot_masks_are_area_fractions_in_place() -> None:
    mask = torch.zeros(1, 128, 128, dtype=torch.uint8)
    mask[0, 8:16, 16:24] = 2  # exactly latent pixel (1, 2)
    encoded = encode_mask(mask, DEMO, num_classes=3, autoencoder=None)
    assert encoded.shape == (1, 3 * 16, 16, 16)
    second = encoded.reshape(1, 3, 16, 16, 16)[:, 1]
    assert (second[:, :, 1, 2] == 1.0).all()
    assert second.sum() == 16 - (16 * 16 * 16 - 16)


def test_half_a_subpixel_is_a_fraction_of_zero() -> None:
    mask = torch.zeros(1, 128, 128, dtype=torch.uint8)
    mask[0, 0, 0:2] = 1  # one of the two rows of the first 2 x 2 subpixel
    encoded = encode_mask(mask, DEMO, num_classes=1, autoencoder=None)
    assert encoded[0, 0, 0, 0] == 0.0


def test_known_slices_are_flagged_and_noise_fades() -> None:
    x = torch.ones(3, 8, 16, 16)
    mask, informed = torch.zeros(3, 16, 16, 16), torch.randn(3, 8, 16, 16)
    known = torch.tensor([True, False, True])
    alpha = torch.tensor([0.5, 0.5, 0.1])
    seen = torch.zeros(3, 2, 1)
    told = Conditions(mask, informed, torch.rand(3, 2), known, seen)
    packed, faded = pack_channels(told, seen, DEMO), fade_noisy(x, known, alpha, DEMO)
    assert 8 + packed.shape[1] == DEMO.input_channels(num_classes=1)
    flag = 16 + 8
    assert packed[:, flag].mean(dim=(1, 2)).tolist() == [1.0, 0.0, 1.0]
    assert faded[:, 0, 0, 0].tolist() == [1.0, 0.5, 1.0], "known slices do not fade"
    torch.testing.assert_close(packed[:, 16:flag], informed)


def test_appearance_is_the_mean_of_each_class_and_small_classes_are_absent() -> None:
    mask = torch.zeros(1, 16, 16, dtype=torch.uint8)
    mask[0, :8, :8], mask[0, 8:, 8:], mask[0, 0, 15] = 1, 2, 3
    image = torch.full((1, 16, 16), -1.0)
    image[0, :8, :8], image[0, 8:, 8:] = 0.25, 0.5
    seen = class_appearance(image, mask, num_classes=3)
    assert seen.tolist() == [[[0.25, 0.5, 0.0], [1.0, 1.0, 0.0]]]


def test_a_painted_mask_shows_the_informed_slices_intensities_where_the_classes_are() -> None:
    mask = torch.zeros(1, 128, 128, dtype=torch.uint8)
    mask[0, :64], mask[0, 64:] = 1, 2
    encoded = encode_mask(mask, DEMO, num_classes=2, autoencoder=None)
    seen = torch.tensor([[[0.25, 0.0], [1.0, 0.0]]])  # class 2 is not in the informed slice
    painted = paint_mask(encoded, seen, DEMO)
    assert painted.shape == (1, 32, 16, 16)
    assert (painted[:, :16, :8] == 0.25).all()
    assert (painted[:, 16:, :8] == 1.0).all()
    assert (painted[:, :, 8:] == 0.0).all()
    assert (paint_mask(encoded, torch.zeros_like(seen), DEMO) == 0.0).all()
