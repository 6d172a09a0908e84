"""What the benches of speed share: cases, arithmetic, kernel times and settings."""

import numpy as np
import pytest

from engine.volumes.prepare_config import PRESETS as GRIDS
from models.presets import PRESETS
from models.weights.manifest import Manifest
from speed.arithmetic import Arithmetic
from speed.kernels import covered_s, kind_of, summary
from speed.material import distinct_planes, marked, stretched_phantom
from speed.settings import Bench, Setting, table


def test_no_plane_of_a_stretched_phantom_repeats_another() -> None:
    case = stretched_phantom(256, 155)
    assert case.image is not None
    assert case.image.shape == case.mask.shape == (155, 256, 256)
    assert distinct_planes(case.mask) == distinct_planes(case.image) == 155
    assert distinct_planes([*marked(case.mask, 0), *marked(case.mask, 5)]) == 310
    assert set(np.unique(case.mask)) == set(range(case.num_classes + 1))
    assert case.spacing_mm_zyx[1:] == pytest.approx([GRIDS["abdomen_ct_256"].spacing_mm_yx] * 2)


def test_arithmetic_of_the_papers_decoder() -> None:
    """KL-f8 decodes a slice of 512 px with 2.48 x 10^12 operations (hand count: 2.5)."""
    preset = PRESETS["gem3d_512"]
    names = ("a", "b")
    manifest = Manifest(
        preset=preset, num_classes=2, class_names=names, schedule={}, spacing_mm_yx=1.0,
        modality="ct",
    )  # fmt: skip
    arithmetic = Arithmetic.of(manifest)
    assert arithmetic.decode_slice == pytest.approx(2.5, rel=0.03)
    assert arithmetic.encode(155) == pytest.approx(156 * arithmetic.encode_slice)
    assert arithmetic.denoise(55) == pytest.approx(233.0, rel=0.03)


def test_kernels_that_overlap_fill_the_time_once() -> None:
    assert covered_s([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0)]) == 4.0
    times = summary(8.0, [("sm90_xmma_fprop", 0.0, 2.0), ("nchwToNhwcKernel", 1.0, 3.0)])
    assert times.kernel_s == 4.0
    assert times.busy_s == 3.0
    assert times.kinds == {"convolution and product": 0.5, "layout and casts": 0.5}
    assert times.top[0] == ("sm90_xmma_fprop", 0.5, 1)


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("void cudnn::ops::nchwToNhwcKernel<__half>", "layout and casts"),
        ("Memcpy DtoH (Device -> Pinned)", "layout and casts"),
        ("pytorch_flash::flash_fwd_kernel", "attention"),
        ("void at::native::RowwiseMomentsCUDAKernel", "norm"),
        ("nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_NTN", "convolution and product"),
        ("triton_poi_fused_silu_3", "compiled"),
        ("vectorized_elementwise_kernel", "elementwise and other"),
    ],
)
def test_kinds_of_kernels(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind


def test_what_warms_up_shares_no_plane_with_what_is_timed() -> None:
    """A sampler keeps the planes that it has encoded."""
    bench = Bench.of(PRESETS["demo"], None, 20, "cpu")
    for setting in (Setting("many", 3, {}), Setting("replicas", 3, {}, replicas=True)):
        turns = [bench._requests(setting, 20, seen) for seen in range(5)]
        masks = 1 if setting.replicas else 3
        seen = [{plane.tobytes() for r in turn for plane in r.mask} for turn in turns]
        assert [len(planes) for planes in seen] == [masks * 20] * 5
        assert len(set.union(*seen)) == 5 * masks * 20
        assert len({request.sample_id for turn in turns for request in turn}) == 15


def test_settings_of_a_command_line() -> None:
    setting = Setting.parse("half volumes=8 precision=float16 max_windows=16")
    assert setting == Setting("half", 8, {"precision": "float16", "max_windows": 16})
    assert Setting.parse("one") == Setting("one", 1, {})
    assert Setting.parse("many volumes=2 replicas=true") == Setting("many", 2, {}, replicas=True)


def test_a_setting_that_failed_stands_in_the_table() -> None:
    rows = [{"preset": "demo", "label": "wide", "error": "OutOfMemoryError: 3 GB"}]
    assert "wide" in table(rows)
    assert "3 GB" in table(rows)
