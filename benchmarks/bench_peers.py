#!/usr/bin/env python
"""The engine beside what a user could take instead, with random weights on one device in one run.

    python benchmarks/bench_peers.py [--device cuda] [--part NAME ...] [--quick] [--out FILE]

Parts:
    maisi: NVIDIA MAISI's networks from MONAI (rectified flow: U-Net and ControlNet; its autoencoder
        decodes by sliding windows), as its 512 x 512 x 128 setting runs them, in float16.
    kl_f8: diffusers' AutoencoderKL of the paper as shipped, 8 slices at a time, in float16.
    engine: the preset of that size at its own steps and at MAISI's 30, one volume and several.

Speed of different models is told three ways: a slice of a finished volume, an evaluation of the
network (for a slice of its input), and a slice at equal steps. Random weights say nothing of
quality. --quick takes small networks and shapes, which any CPU runs, and says nothing of speed.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from machine import about_device
from models.autoencoder import Autoencoder
from models.presets import PRESETS
from peers.kl_f8 import decode_as_shipped
from peers.maisi import FULL, SMALL, measure_maisi
from speed.material import SEED
from speed.settings import Bench, Setting, table

_PARTS = ("maisi", "kl_f8", "engine")
_NUM_SLICES = 155


def main(args: Sequence[str]) -> int:
    """Measure, print, return 0."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=_PARTS, default=list(_PARTS))
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--preset", default="gem3d_512", choices=sorted(PRESETS))
    parser.add_argument("--precision", default="float16", help="of the engine")
    parser.add_argument("--volumes", type=int, default=4, help="of the engine, sampled together")
    parser.add_argument("--repeats", type=int, default=5, help="of each peer's network")
    parser.add_argument("--quick", action="store_true", help="small networks and shapes")
    parser.add_argument("--out", type=Path, help="also write the JSON object there")
    options = parser.parse_args(args)
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    parts: dict[str, Callable[[Namespace], dict[str, Any]]] = {
        "maisi": maisi, "kl_f8": kl_f8, "engine": engine,
    }  # fmt: skip
    found: dict[str, Any] = {"bench": "peers", **about_device(options.device), "seed": SEED}
    found["quick"] = options.quick
    for part in options.part:
        found[part] = parts[part](options)
        print(part, json.dumps(found[part]), flush=True)
        if options.device == "cuda":
            torch.cuda.empty_cache()
    found["compared"] = compared(found)
    for name, value in found["compared"].items():
        print(f"{name:44s} {value}")
    text = json.dumps(found)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


def maisi(options: Namespace) -> dict[str, Any]:
    """MAISI's networks."""
    shape = SMALL if options.quick else FULL
    return measure_maisi(shape, options.device, 1 if options.quick else options.repeats)


def kl_f8(options: Namespace) -> dict[str, Any]:
    """The paper's autoencoder as diffusers ships it."""
    spec = PRESETS["demo" if options.quick else options.preset].autoencoder
    edge = 8 if options.quick else PRESETS[options.preset].latent_px
    torch.manual_seed(SEED)
    net = Autoencoder(spec).net
    return decode_as_shipped(net, spec.latent_channels, edge, options.device, options.repeats)


def engine(options: Namespace) -> dict[str, Any]:
    """The engine's preset of that size."""
    preset = PRESETS["demo" if options.quick else options.preset]
    few, many = (1, 2) if options.quick else (5, FULL.steps)
    precision = "float32" if options.device == "cpu" else options.precision
    settings = [
        Setting("one", 1, {"num_inference_steps": few, "precision": precision}),
        Setting("many", options.volumes, {"num_inference_steps": few, "precision": precision}),
        Setting("equal_steps", 1, {"num_inference_steps": many, "precision": precision}),
    ]
    bench = Bench.of(preset, None, 20 if options.quick else _NUM_SLICES, options.device)
    rows = bench.rows(settings)
    print(table(rows), flush=True)
    return {row["label"]: row for row in rows}


def compared(found: dict[str, Any]) -> dict[str, float]:
    """The engine's speed over MAISI's, and the seconds that it is told by; only what was run."""
    other, own = found.get("maisi"), found.get("engine")
    if other is None or own is None or any("error" in row for row in own.values()):
        return {}
    window = PRESETS[own["one"]["preset"]].window
    step = own["many"]["ms_a_window_step"] / window
    figures = {
        "maisi_ms_a_slice": other["ms_a_slice"],
        "engine_ms_a_slice": own["many"]["ms_a_slice"],
        "engine_ms_a_slice_alone": own["one"]["ms_a_slice"],
        "engine_ms_a_slice_equal_steps": own["equal_steps"]["ms_a_slice"],
        "maisi_ms_a_slice_and_evaluation": other["ms_a_slice_and_evaluation"],
        "engine_ms_a_slice_and_evaluation": step,
    }
    times = {
        "times_maisi": figures["maisi_ms_a_slice"] / figures["engine_ms_a_slice"],
        "times_maisi_alone": figures["maisi_ms_a_slice"] / figures["engine_ms_a_slice_alone"],
        "times_maisi_equal_steps": figures["maisi_ms_a_slice"]
        / figures["engine_ms_a_slice_equal_steps"],
        "times_maisi_an_evaluation": figures["maisi_ms_a_slice_and_evaluation"] / step,
    }
    return {name: round(value, 4) for name, value in (figures | times).items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
