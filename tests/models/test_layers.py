"""Fast forms of layers give what the paper's plain forms give."""

import pytest
import torch

from models.denoiser.layers import Attention, SliceConv, freeze_for_cpu, set_plain


@pytest.mark.parametrize("num_slices", [1, 2, 5, 16])
def test_three_forms_of_the_slice_convolution_agree(num_slices: int) -> None:
    torch.manual_seed(num_slices)
    layer = SliceConv(24).requires_grad_(False)
    layer.weight.add_(0.2 * torch.randn(layer.weight.shape))
    layer.bias.add_(torch.randn(layer.bias.shape))
    x = torch.randn(2 * num_slices, 24, 5, 3).contiguous(memory_format=torch.channels_last)
    volume = layer(x, num_slices)
    set_plain(layer, True)
    plain = layer(x, num_slices)
    set_plain(layer, False)
    freeze_for_cpu(layer)
    products = layer(x, num_slices)
    torch.testing.assert_close(volume, plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(products, plain, atol=1e-5, rtol=1e-5)
    assert products.is_contiguous(memory_format=torch.channels_last)


def test_windows_of_a_batch_do_not_mix() -> None:
    torch.manual_seed(0)
    layer = SliceConv(8).requires_grad_(False)
    layer.weight.add_(torch.randn(layer.weight.shape))
    freeze_for_cpu(layer)
    x = torch.randn(12, 8, 4, 4)
    together = layer(x, 4)
    apart = torch.cat([layer(part, 4) for part in x.split(4)])  # type: ignore[no-untyped-call]
    torch.testing.assert_close(together, apart)


def test_fused_attention_equals_the_plain_form() -> None:
    torch.manual_seed(0)
    layer = Attention(64, 32, zero_output=False).requires_grad_(False)
    tokens = torch.randn(3, 10, 64)
    fused = layer(tokens)
    set_plain(layer, True)
    torch.testing.assert_close(layer(tokens), fused, atol=1e-5, rtol=1e-5)
