"""Foreign weights into a weights folder, as if its stages had been trained here.

What the files do not say (classes, spacing, modality) comes from the prepared data that the model
is for. The scale of an autoencoder's latents is measured on that data, as stage `autoencoder` does;
public GEM-3D weights keep the scale that they were trained with. Knows no layout of foreign files
(models/weights/interop.py, models/weights/public.py do).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from engine.config import FrozenConfig
from engine.errors import ConfigError, WeightsError
from engine.paths import READ, WRITTEN
from engine.sampling.diffusion.schedule import ScheduleConfig
from engine.storage.digests import hash_file
from engine.storage.durable import whole_folder
from engine.training.config import SpecValue, TrainConfig
from engine.training.examples.cache import open_pixels
from engine.training.stages.autoencoder import AutoencoderStage
from engine.training.stages.survey import survey
from engine.training.weights.card import render_card
from engine.volumes.layouts import Split
from engine.weights import weights_errors
from models.autoencoder import Autoencoder
from models.errors import WeightsFileError
from models.presets import Preset
from models.weights.folder import (
    AUTOENCODER,
    CONFIG,
    DENOISER,
    Manifest,
    save_weights,
    write_manifest,
)
from models.weights.interop import load_diffusers_autoencoder, load_ldm_autoencoder
from models.weights.public import (
    PUBLIC_LATENT_SCALE,
    PUBLIC_SCHEDULE,
    load_public_checkpoint,
)

_DEFAULT_PRESET = {"autoencoder": "gem3d_512", "gem3d": "gem3d_512_public"}


class ImportJob(FrozenConfig):
    """Settings of an import.

    Attributes:
        kind: `autoencoder`: a KL autoencoder, to train denoisers on; `gem3d`: a public GEM-3D
            checkpoint, to sample from or to go on with.
        source: `autoencoder`: a checkpoint of latent diffusion (.ckpt, .safetensors), or a
            diffusers folder of an AutoencoderKL. `gem3d`: the checkpoint.
        autoencoder_source: `gem3d`: the autoencoder (as above) of a checkpoint that holds none.
        weights: folder to write.
        data: prepared cases of the kind that the model is for: their classes (in the order that
            the model was trained with), spacing and modality are written down.
        work: folder of the pixel cache; the same as train_model's saves time later.
        preset: architecture; None is `gem3d_512`, or `gem3d_512_public` for `gem3d`.
        denoiser: fields of the preset's denoiser to replace, as in train_model.
        autoencoder: fields of the preset's autoencoder to replace, as in train_model.
        norm_groups: of an LDM autoencoder; the one thing its tensors do not show.
        splits: of the data set, on whose cases the latent scale is measured.
        holdout: cases on which the latent scale is not measured.
        overwrite: replace the weights folder, all of it, where there is one.
    """

    kind: Literal["autoencoder", "gem3d"] = "autoencoder"
    source: Annotated[Path, READ] | None = None
    autoencoder_source: Annotated[Path, READ] | None = None
    weights: Annotated[Path, WRITTEN] = Path("runs/weights")
    data: Annotated[Path, READ] = Path("runs/prepared")
    work: Annotated[Path, WRITTEN] = Path("runs/training")
    preset: str | None = None
    denoiser: dict[str, SpecValue] = Field(default_factory=dict)
    autoencoder: dict[str, SpecValue] = Field(default_factory=dict)
    norm_groups: int = Field(32, ge=1)
    splits: tuple[Split, ...] = Field(("train",), min_length=1)
    holdout: tuple[str, ...] = ()
    overwrite: bool = False


def import_weights(job: ImportJob) -> Manifest:
    """Read, measure, write; the folder is whole or as it was before.

    Raises:
        ConfigError: no source, or settings that do not go together.
        TrainingError: no prepared data, or not of the preset's size.
        WeightsError: unreadable or unsafe files, tensors that do not fit (named), or a weights
            folder that is there already.
        StoreError: the folder cannot be written.
    """
    source = _checked(job)
    config = TrainConfig(
        stage="autoencoder",
        data=job.data,
        weights=job.weights,
        work=job.work,
        preset=job.preset or _DEFAULT_PRESET[job.kind],
        denoiser=job.denoiser,
        autoencoder=job.autoencoder,
        splits=job.splits,
        holdout=job.holdout,
        num_iterations=0,
    )
    with weights_errors():
        read = _autoencoder if job.kind == "autoencoder" else _public
        networks, manifest = read(job, source, config)
    with whole_folder(job.weights) as staged:
        for name, network in networks.items():
            save_weights(staged / name, network.state_dict())
        write_manifest(staged, manifest)
        card = render_card(job.weights.absolute().name, manifest)
        (staged / "README.md").write_text(card, encoding="utf-8")
    return manifest


def _autoencoder(
    job: ImportJob, source: Path, config: TrainConfig
) -> tuple[dict[str, nn.Module], Manifest]:
    """A KL autoencoder with the latent scale that it has on the data."""
    found = survey(config)
    manifest = found.manifest
    net = _read_autoencoder(source, job.norm_groups)
    _refuse_other_autoencoder(source, net, manifest.preset)
    pixels = open_pixels(found.plan)
    stage = AutoencoderStage(found.settings, manifest.preset, net, pixels, {})
    stage.to("cuda" if torch.cuda.is_available() else "cpu").measure_latents()
    entry = _entry(job, net, _digests([source])) | {"num_cases": stage.num_cases}
    return {AUTOENCODER: net}, manifest.model_copy(update={"stages": {"autoencoder": entry}})


def _public(
    job: ImportJob, source: Path, config: TrainConfig
) -> tuple[dict[str, nn.Module], Manifest]:
    """Denoiser and autoencoder of a public checkpoint, as their stages would have left them."""
    manifest = survey(config).manifest
    try:
        model = load_public_checkpoint(source, manifest.preset, manifest.num_classes)
    except WeightsFileError:
        raise
    except ValueError as error:
        raise ConfigError(f"{error}; give another --preset") from None
    net = model.autoencoder or _public_autoencoder(job, manifest.preset)
    imported = _digests([source, job.autoencoder_source])
    entries = {"autoencoder": _entry(job, net, imported)}
    # a checkpoint without volumetric layers is one of stage 1: stage 2 can be trained on it
    for stage in ("slice", "volume") if model.is_volumetric else ("slice",):
        entries[stage] = _entry(job, model.denoiser, imported) | {"is_ema": model.is_ema}
    schedule = ScheduleConfig.model_validate(PUBLIC_SCHEDULE).model_dump()
    manifest = manifest.model_copy(update={"schedule": schedule, "stages": entries})
    return {AUTOENCODER: net, DENOISER: model.denoiser}, manifest


def _checked(job: ImportJob) -> Path:
    """The source, when nothing stands in the way of importing it."""
    if job.source is None:
        raise ConfigError("no weights to import; give --source FILE or FOLDER")
    if job.autoencoder_source is not None and job.kind != "gem3d":
        raise ConfigError(
            "autoencoder_source belongs to kind gem3d; give the autoencoder as source"
        )
    folder = job.weights
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        if not (folder / CONFIG).is_file():
            raise WeightsError(f"{folder}: exists and is no weights folder; give another --weights")
        if not job.overwrite:
            raise WeightsError(
                f"{folder}: holds weights already; give another --weights, or --overwrite to "
                "replace all of them"
            )
    return job.source


def _read_autoencoder(source: Path, norm_groups: int) -> Autoencoder:
    if source.is_dir():
        return load_diffusers_autoencoder(source)
    return load_ldm_autoencoder(source, norm_groups)


def _refuse_other_autoencoder(source: Path, net: Autoencoder, preset: Preset) -> None:
    wanted, found = preset.autoencoder.model_dump(), net.spec.model_dump()
    other = [f"{k} is {found[k]}, not {wanted[k]}" for k in wanted if found[k] != wanted[k]]
    if other:
        raise WeightsError(
            f"{source}: not the autoencoder of preset {preset.name} ({'; '.join(other)}); give "
            "another --preset, or these fields with --autoencoder here and in train_model"
        )


def _public_autoencoder(job: ImportJob, preset: Preset) -> Autoencoder:
    """The autoencoder beside a public checkpoint, at the scale that it was trained with."""
    if job.autoencoder_source is None:
        raise WeightsError(
            f"{job.source}: holds no autoencoder; give the one it was trained with (KL-f8) as "
            "--autoencoder-source"
        )
    net = _read_autoencoder(job.autoencoder_source, job.norm_groups)
    _refuse_other_autoencoder(job.autoencoder_source, net, preset)
    zeros = torch.zeros_like(net.offset)
    net.set_statistics(zeros, zeros + 1.0 / PUBLIC_LATENT_SCALE)
    return net


def _entry(job: ImportJob, net: nn.Module, imported: dict[str, str]) -> dict[str, Any]:
    """What an imported network tells about itself, in the words of a trained stage."""
    assert job.source is not None
    return {
        "iterations": 0,
        "seconds": 0.0,
        "loss": None,
        "num_cases": 0,
        "num_parameters": sum(p.numel() for p in net.parameters()),
        "batch_size": 1,
        "num_workers": 1,
        "splits": list(job.splits),
        "holdout": list(job.holdout),
        "about": f"Imported from {job.source.name}.",
        "imported": imported,
    }


def _digests(sources: Sequence[Path | None]) -> dict[str, str]:
    """sha256 of each file that was read, by name."""
    found: dict[str, str] = {}
    for source in sources:
        if source is not None:
            files = sorted(source.iterdir()) if source.is_dir() else [source]
            found |= {file.name: hash_file(file) for file in files if file.is_file()}
    return found
