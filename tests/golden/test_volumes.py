"""Volumes of every conditioning, solver and way of sampling are those that were recorded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.sampling.sampler import Sampler, SampleRequest, SamplingConfig
from engine.volumes.phantoms.cohort import HELD_OUT_INDICES, prepared_phantom
from tests.golden.compare import check_golden, signature
from tests.golden.models import EDGE, WAYS, preset_of, write_model

ROOT = Path(__file__).parents[2]
TOLERANCE = 2e-4  # 1e-4 of the range
SOLVERS = ("ddpm", "ddim", "dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "dpmpp_3m_sde", "unipc")
SAMPLED: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{f"way {way}": (way, "v", {}) for way in WAYS},
    **{
        f"solver {name}": ("concatenate", "v", {"solver": name, "num_inference_steps": 6})
        for name in SOLVERS
    },
    **{f"eps {name}": ("paper", "eps", {"solver": name}) for name in ("ddim", "unipc", "ddpm")},
    "solver euler": ("concatenate", "flow", {"solver": "euler"}),
    "solver heun": ("concatenate", "flow", {"solver": "heun"}),
    "ddim eta 1": ("concatenate", "v", {"solver": "ddim", "eta": 1.0}),
    **{f"guided {way}": (way, "v", {"guidance_scale": 2.0}) for way in WAYS},
    "reuse": ("concatenate", "v", {"num_inference_steps": 5, "reuse_features": 2}),
    "reuse guided": (
        "controlnet", "v",
        {"num_inference_steps": 4, "reuse_features": 2, "guidance_scale": 1.5},
    ),
    "resampling": (
        "concatenate", "v",
        {"known_slices": "replacement", "num_resamples": 2, "jump_length": 1, "solver": "ddim"},
    ),
    "replacement": ("concatenate", "v", {"known_slices": "replacement"}),
    "chain": ("tower", "v", {"informed_follows": "chain"}),
    "overlap 1": ("concatenate", "v", {"overlap": 1}),
    "karras": ("paper", "eps", {"timestep_spacing": "karras", "solver": "dpmpp_2m"}),
    "plain": ("grey_controlnet", "v", {"arithmetic": "plain"}),
}  # fmt: skip


def request() -> SampleRequest:
    """15 slices of two classes, and an informed slice with some structure."""
    mask = np.zeros((15, EDGE, EDGE), dtype=np.uint8)
    mask[:, 8:24, 8:24] = 2
    mask[3:9, 12:18, 12:18] = 1
    y, x = np.mgrid[:EDGE, :EDGE] / EDGE
    informed = (np.sin(7 * x) * np.cos(5 * y)).astype(np.float32)
    return SampleRequest(
        sample_id="golden",
        seed=7,
        mask=mask,
        informed=informed,
        informed_mask=mask[4],
        informed_position=0.3,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Weights folders by conditioning and schedule, each written once."""
    root = tmp_path_factory.mktemp("golden")
    needed = {(way, schedule) for way, schedule, _ in SAMPLED.values()}
    return {
        key: write_model(root / "-".join(key), preset_of(key[0]), key[1]) for key in sorted(needed)
    }


@pytest.mark.parametrize("name", SAMPLED)
def test_volumes(name: str, folders: dict[tuple[str, str], Path]) -> None:
    way, schedule, changes = SAMPLED[name]
    settings = {"precision": "float32", "num_inference_steps": 3, "overlap": 2, **changes}
    config = SamplingConfig.model_validate(settings)
    volume = Sampler.load(folders[way, schedule], config, device="cpu").sample(request())
    check_golden(f"volume, {name}", signature(volume.image), TOLERANCE)


def test_demo_weights() -> None:
    case = prepared_phantom(HELD_OUT_INDICES[0])
    config = SamplingConfig(precision="float32")
    sampler = Sampler.load(ROOT / "weights" / "demo_abdomen", config, device="cpu")
    volume = sampler.sample(SampleRequest.own(case, seed=0))
    check_golden("volume, demo weights", signature(volume.image), TOLERANCE)
