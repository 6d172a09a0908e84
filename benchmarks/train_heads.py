"""Train gem3d_plus_128 on heads in minutes, everything on one card: autoencoder, slices, windows.

`python benchmarks/train_heads.py PACKED OUT [--set key=value ...]`. PACKED holds the anatomies of
`head_cases.py pack` and cases drawn beforehand; other processes may add cases while this runs
(`--cases`). Phases end by the clock. OUT becomes a weights folder that the product reads.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.sampling.diffusion.schedule import make_schedule
from engine.training.losses.perceptual import load_feature_loss
from engine.training.optimisation.ema import Ema
from engine.training.optimisation.pace import learning_rate_factor
from engine.training.weights.card import write_card
from engine.volumes.heads.labels import level_config
from head_losses import Judge, Noising, autocast, norm_in_bfloat16, sharpen_posterior
from head_pool import HeadPool
from head_recipe import Recipe
from models.autoencoder import Autoencoder
from models.denoiser.unet import Denoiser, to_channels_last
from models.weights.folder import AUTOENCODER, DENOISER, Manifest, save_weights, write_manifest

CLASSES = level_config("structures").all_class_names
ABOUT = (
    "Made T1-like heads, skull-stripped: images drawn from 12 of the label maps of SynthSeg's "
    "example data (B. Billot et al., Medical Image Analysis 2023; Apache-2.0), bent, scaled and "
    "mirrored, with other tissue signals, texture, scanner and noise in every draw."
)


class Phase:
    """One phase: steps until its seconds are over, with a rate that ends at nothing."""

    def __init__(
        self, name: str, net: nn.Module, recipe: Recipe, seconds: float, rate: float
    ) -> None:
        self.name, self.net, self.seconds, self.rate = name, net, seconds, rate
        self.max_steps = recipe.max_steps
        fused = {"fused": True} if next(net.parameters()).is_cuda else {}
        self.optimizer = torch.optim.AdamW(
            net.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=recipe.weight_decay, **fused
        )
        self.ema = Ema(net, 200)
        self.ema_share = recipe.ema_share
        self.step, self.losses = 0, list[float]()

    def run(self, loss_of: Callable[[float], Tensor], after: Callable[[], None]) -> None:
        """Steps; `loss_of` is told the fraction that is done, `after` runs now and then."""
        started = time.perf_counter()
        fraction, kept = 0.0, list[Tensor]()
        while fraction < 1.0:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * learning_rate_factor(self.step, fraction, 100)
            loss = loss_of(fraction)
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1
            self.ema.target_decay = 0.5 ** (1.0 / max(20.0, self.ema_share * self.step))
            self.ema.update(self.net, self.step)
            kept.append(loss.detach())
            if self.step % 25 == 0 or self.step >= self.max_steps:
                self.losses.append(float(torch.stack(kept).mean()))
                kept = []
                after()
            fraction = (time.perf_counter() - started) / self.seconds
            if self.step >= self.max_steps:
                break
        self.took = time.perf_counter() - started
        if kept:
            self.losses.append(float(torch.stack(kept).mean()))
        print(
            f"{self.name}: {self.step} steps in {self.took:.1f} s, loss {self.losses[-1]:.4f}",
            flush=True,
        )

    def entry(self, recipe: Recipe, pool: HeadPool, batch: int) -> dict[str, Any]:
        """What the manifest says of it."""
        return {
            "iterations": self.step, "seconds": round(self.took, 1),
            "loss": round(self.losses[-1], 5), "num_cases": pool.num_cases, "num_skipped": 0,
            "missing_classes": [], "num_parameters": sum(p.numel() for p in self.net.parameters()),
            "batch_size": batch, "examples_per_step": batch, "num_workers": 1,
            "learning_rate": self.rate, "precision": "bfloat16", "seed": recipe.seed,
            "splits": ["train"], "holdout": ["head13", "head14", "head15", "head16"],
            "about": ABOUT,
        }  # fmt: skip


def train_autoencoder(
    pool: HeadPool, recipe: Recipe, trunk: Path | None, more: Callable[[], None]
) -> tuple[Autoencoder, Phase]:
    """L1, squared, perceptual, texture and patch losses; its latents are measured at the end."""
    net = Autoencoder(pool.preset.autoencoder).to(pool.device)
    sharpen_posterior(net)
    if pool.device.type == "cuda":
        to_channels_last(net)
        norm_in_bfloat16(net)
    features = None if trunk is None else load_feature_loss(trunk).to(pool.device)
    judge = Judge(net, recipe, features)
    phase = Phase("autoencoder", net, recipe, recipe.ae_seconds, recipe.ae_rate)
    phase.run(lambda fraction: judge.loss(pool.planes(recipe.ae_batch), fraction), more)
    net.load_state_dict(phase.ema.full_state(net))
    net.eval().requires_grad_(False)
    with torch.no_grad(), autocast(pool.device):
        means = [net.net.encode(pool.planes(128)).latent_dist.mean.float() for _ in range(8)]
    std, mean = torch.std_mean(torch.cat(means), dim=(0, 2, 3))
    net.set_statistics(mean, std)
    return net, phase


def train_denoiser(
    pool: HeadPool, recipe: Recipe, more: Callable[[], None]
) -> tuple[Denoiser, list[Phase]]:
    """Single slices first, then windows with all layers."""
    net = Denoiser(pool.preset, pool.num_classes).to(pool.device)
    net.set_appearance_statistics(pool.appearance[: pool.num_slices])
    if pool.device.type == "cuda":
        to_channels_last(net)
        norm_in_bfloat16(net)
    noising = Noising(net, make_schedule(recipe.schedule()), pool, recipe)
    phases = []
    if recipe.slice_seconds > 0:
        phases.append(Phase("slice", net, recipe, recipe.slice_seconds, recipe.rate))
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(".slices." not in f".{name}")
        phases[-1].run(lambda _: noising.loss(slices=True), more)
        net.load_state_dict(phases[-1].ema.full_state(net))
        net.requires_grad_(True)
    phases.append(Phase("volume", net, recipe, recipe.volume_seconds, recipe.rate))
    phases[-1].run(lambda _: noising.loss(slices=False), more)
    net.load_state_dict(phases[-1].ema.full_state(net))
    return net, phases


def _options(pairs: list[str]) -> Recipe:
    kinds = {field.name: type(getattr(Recipe(), field.name)) for field in fields(Recipe)}
    values = dict(pair.split("=", 1) for pair in pairs)
    return Recipe(**{name: kinds[name](value) for name, value in values.items()})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packed", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", type=Path, nargs="*", default=[])
    parser.add_argument("--trunk", type=Path)
    parser.add_argument("--autoencoder", type=Path, help="folder of an earlier run's OUT")
    parser.add_argument("--set", nargs="*", default=[])
    return parser.parse_args()


def _steps(pool: HeadPool, folders: list[Path]) -> Iterator[None]:
    """New cases, at most once a second."""
    while True:
        if pool.look(folders, at_most=8):
            print(f"{pool.num_cases} cases, {pool.num_slices} slices", flush=True)
        last = time.perf_counter()
        yield
        while time.perf_counter() - last < 1.0:
            yield


def main() -> None:
    """Train, and write the weights folder."""
    given = _arguments()
    recipe = _options(given.set)
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.benchmark_limit = 4
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    pool = HeadPool(recipe.preset(), len(CLASSES), recipe.max_slices, device)
    folders = [given.packed, *given.cases]
    pool.look(folders)
    print(f"start: {pool.num_cases} cases, {pool.num_slices} slices, {device}", flush=True)
    coming = _steps(pool, folders)
    autoencoder, first = train_autoencoder(pool, recipe, given.trunk, lambda: next(coming))
    pool.encode(autoencoder)

    def more() -> None:
        next(coming)
        pool.encode(autoencoder)

    entries = {"autoencoder": first.entry(recipe, pool, recipe.ae_batch)}
    denoiser, phases = train_denoiser(pool, recipe, more)
    for phase in phases:
        entry = phase.entry(recipe, pool, recipe.batch)
        entries[phase.name] = {
            **entry,
            "condition_dropout": 0.0,
            "pinned_share": recipe.pinned_share,
        }
    entries["volume"]["recipe"] = asdict(recipe)
    manifest = Manifest(
        preset=recipe.preset(), num_classes=len(CLASSES), class_names=CLASSES,
        schedule=recipe.schedule().model_dump(mode="json"), spacing_mm_yx=1.6, modality="mr",
        num_inference_steps=10, stages=entries,
    )  # fmt: skip
    save_weights(given.out / AUTOENCODER, autoencoder.state_dict())
    save_weights(given.out / DENOISER, denoiser.state_dict())
    write_manifest(given.out, manifest)
    write_card(given.out)
    curve = {phase.name: phase.losses for phase in (first, *phases)}
    (given.out / "losses.json").write_text(json.dumps(curve), encoding="utf-8")


if __name__ == "__main__":
    main()
