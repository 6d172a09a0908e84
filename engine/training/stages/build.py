"""From settings to a stage that can be trained: cases, caches, networks and their first weights."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from engine.errors import TrainingError, WeightsError
from engine.log import get_logger
from engine.sampling.diffusion.schedule import ScheduleConfig, make_schedule
from engine.training.config import PIXEL_STAGES, TrainConfig
from engine.training.examples.cache import (
    CachePlan,
    open_latents,
    open_pixels,
    plan_latents,
    plan_pixels,
)
from engine.training.examples.cases import check_cases, find_cases
from engine.training.examples.encoding import LatentCase
from engine.training.stages.autoencoder import AutoencoderStage, DecoderStage
from engine.training.stages.base import StageModel
from engine.training.stages.denoiser import DenoiserStage, DistillStage
from engine.training.stages.position import PositionStage
from engine.training.stages.vision_tower import check_tower
from engine.volumes.prepared_store import PreparedHeader
from models.autoencoder import Autoencoder
from models.denoiser import Denoiser
from models.position import PositionModel
from models.presets import PRESETS, AutoencoderSpec, DenoiserSpec, Preset
from models.weights import (
    AUTOENCODER,
    CONFIG,
    DENOISER,
    Manifest,
    WeightsFileError,
    load_autoencoder,
    load_denoiser,
    read_manifest,
)

log = get_logger(__name__)


def build_stage(config: TrainConfig) -> tuple[StageModel, Manifest]:
    """Load cases and models of `config.stage`; every worker gets the same weights.

    Raises:
        TrainingError: no cases, or cases that do not fit together or with the preset.
        WeightsError: an earlier stage is missing or of another architecture.
    """
    torch.manual_seed(config.seed)
    cases, manifest = survey(config)
    plan = plan_cache(config, cases, manifest)
    held_out = find_cases(config, held_out=True)
    held_out = [c for c in held_out if c.size_zyx[1:] == cases[0].size_zyx[1:]]
    held_out = [c for c in held_out if "image" in c.sha256]
    probe = plan_cache(config.model_copy(update={"num_augmented": 0}), held_out, manifest)
    try:
        if config.stage in PIXEL_STAGES:
            net = _autoencoder(config, manifest)
            kind = DecoderStage if config.stage == "decoder" else AutoencoderStage
            stage: StageModel = kind(
                config, manifest.preset, net, open_pixels(plan), open_pixels(probe)
            )
        else:
            stage = _denoiser(config, manifest, open_latents(plan), open_latents(probe))
    except WeightsFileError as error:
        raise WeightsError(str(error)) from None
    if stage.num_skipped:
        log.warning("%d cases have fewer slices than a window; left out", stage.num_skipped)
    return stage, manifest


def survey(config: TrainConfig) -> tuple[list[PreparedHeader], Manifest]:
    """The training cases and the manifest they go with, checked; nothing is encoded yet.

    Raises:
        TrainingError, WeightsError: see `build_stage`.
    """
    preset = resolve_preset(config)
    cases = find_cases(config)
    check_cases(cases, config, preset)
    try:
        manifest = _manifest(config, cases, preset)
    except WeightsFileError as error:
        raise WeightsError(str(error)) from None
    if config.stage in ("slice", "volume", "distill"):
        check_tower(config, manifest)
    needed = {"volume": [AUTOENCODER, DENOISER], "distill": [AUTOENCODER, DENOISER]}
    folder = config.start_from if config.stage == "distill" else config.weights
    assert folder is not None
    if config.stage != "autoencoder":
        for name in needed.get(config.stage, [AUTOENCODER]):
            if not (folder / name).is_file():
                raise WeightsError(f"{folder / name}: not found; run the earlier stage first")
    return cases, manifest


def plan_cache(config: TrainConfig, cases: list[PreparedHeader], manifest: Manifest) -> CachePlan:
    """What the stage needs in its cache."""
    if config.stage in PIXEL_STAGES:
        return plan_pixels(cases, config)
    return plan_latents(cases, manifest, config)


def resolve_preset(config: TrainConfig) -> Preset:
    """The named preset with the settings' own fields in it.

    Raises:
        TrainingError: no such preset, or fields that it has not or that do not go together.
    """
    if config.preset not in PRESETS:
        raise TrainingError(f"preset {config.preset!r}; choose one of {', '.join(PRESETS)}")
    preset = PRESETS[config.preset]
    try:
        denoiser = DenoiserSpec.model_validate({**preset.denoiser.model_dump(), **config.denoiser})
        autoencoder = AutoencoderSpec.model_validate(
            {**preset.autoencoder.model_dump(), **config.autoencoder}
        )
    except ValidationError as error:
        problem = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise TrainingError(f"preset {config.preset}: {problem}; see models/presets.py") from None
    return preset.model_copy(update={"denoiser": denoiser, "autoencoder": autoencoder})


def _autoencoder(config: TrainConfig, manifest: Manifest) -> Autoencoder:
    if config.stage == "decoder":
        return load_autoencoder(config.weights, manifest).train()
    if config.start_from is None:
        return Autoencoder(manifest.preset.autoencoder)
    source = read_manifest(config.start_from)
    if source.preset.autoencoder != manifest.preset.autoencoder:
        raise WeightsError(
            f"{config.start_from}: its autoencoder is that of preset {source.preset.name}, not of "
            f"{manifest.preset.name}; start from weights of the same architecture"
        )
    return load_autoencoder(config.start_from, source).train()


def _denoiser(
    config: TrainConfig, manifest: Manifest, cases: list[LatentCase], held_out: list[LatentCase]
) -> StageModel:
    missing = _missing_classes(cases, manifest)
    schedule = make_schedule(ScheduleConfig.model_validate(manifest.schedule))
    stage: StageModel
    if config.stage == "position":
        if manifest.preset.position is None:
            raise TrainingError(
                f"preset {manifest.preset.name}: has no position model; see PRESETS"
            )
        net = PositionModel(manifest.preset)
        stage = PositionStage(config, manifest.preset, net, cases, held_out, schedule)
    else:
        kind = DistillStage if config.stage == "distill" else DenoiserStage
        weight = _class_weight(config, manifest)
        denoiser = _start_denoiser(config, manifest, cases)
        stage = kind(config, denoiser, cases, held_out, schedule, weight)
    stage.missing_classes = missing
    return stage


def _start_denoiser(config: TrainConfig, manifest: Manifest, cases: list[LatentCase]) -> Denoiser:
    """Random weights in stage 1, else the EMA weights of what was trained before."""
    if config.stage == "distill":
        assert config.start_from is not None
        if manifest.schedule.get("prediction_type") == "eps":
            raise TrainingError(
                f"{config.start_from}: predicts eps, which says nothing about x_0 at high noise; "
                "distil a teacher that predicts v, x_0 or flow"
            )
        return load_denoiser(config.start_from, manifest).train()
    if config.stage == "volume" or "slice" in manifest.stages:
        net = load_denoiser(config.weights, manifest).train()
    else:
        net = Denoiser(manifest.preset, manifest.num_classes)
    if manifest.preset.denoiser.class_intensity_input:
        net.set_appearance_statistics(torch.cat([case.appearance for case in cases]))
    return net


def _missing_classes(cases: list[LatentCase], manifest: Manifest) -> tuple[str, ...]:
    """Names of classes that no mask has.

    Raises:
        TrainingError: no mask has any class.
    """
    seen = {index for case in cases for index in case.classes}
    if not seen:
        raise TrainingError(
            f"all {len(cases)} masks are empty; prepare them with the label map of the data set"
        )
    names = manifest.class_names
    missing = tuple(name for i, name in enumerate(names, start=1) if i not in seen)
    if missing:
        log.warning("no mask has %s: the model cannot learn them", ", ".join(missing))
    return missing


def _class_weight(config: TrainConfig, manifest: Manifest) -> Tensor | None:
    if not config.class_weight:
        return None
    unknown = sorted(set(config.class_weight) - set(manifest.class_names))
    if unknown:
        raise TrainingError(f"class_weight names {unknown}; the classes are {manifest.class_names}")
    if manifest.preset.denoiser.mask_encoding != "one_hot":
        raise TrainingError(f"class_weight needs one_hot masks; {manifest.preset.name} has others")
    return torch.tensor([config.class_weight.get(name, 0.0) for name in manifest.class_names])


def _manifest(config: TrainConfig, cases: list[PreparedHeader], preset: Preset) -> Manifest:
    """That of the weights that the stage goes on from, or a new one from the data."""
    first = cases[0]
    folder = config.start_from if config.stage == "distill" else config.weights
    assert folder is not None
    if config.stage == "autoencoder" or not (folder / CONFIG).is_file():
        return Manifest(
            preset=preset,
            num_classes=len(first.class_names),
            class_names=first.class_names,
            schedule=config.schedule.model_dump(),
            spacing_mm_yx=round(float((first.affine[:3, 0] ** 2).sum() ** 0.5), 6),
            modality="ct" if first.unit == "HU" else "mr",
        )
    return _adopt(read_manifest(folder), preset, first, config, folder)


def _adopt(
    manifest: Manifest, preset: Preset, case: PreparedHeader, config: TrainConfig, folder: Path
) -> Manifest:
    """The manifest with the settings' denoiser and schedule, which the first one to train fixes."""
    if config.stage not in ("distill", "decoder") and not set(manifest.stages) - {"autoencoder"}:
        fixed = manifest.preset.model_copy(
            update={"name": preset.name, "denoiser": preset.denoiser}
        )
        manifest = manifest.model_copy(
            update={"preset": fixed, "schedule": config.schedule.model_dump()}
        )
    if manifest.preset.position is None:
        fixed = manifest.preset.model_copy(update={"position": preset.position})
        manifest = manifest.model_copy(update={"preset": fixed})
    if not manifest.preset.same_slices(preset) or manifest.class_names != case.class_names:
        raise WeightsError(
            f"{folder}: made for preset {manifest.preset.name} with fields of its own and classes "
            f"{manifest.class_names}; give the same, or another weights folder"
        )
    schedule = ScheduleConfig.model_validate(manifest.schedule)
    if config.stage not in ("distill", "decoder") and schedule != config.schedule:
        raise WeightsError(
            f"{folder}: made for schedule {manifest.schedule}; give the same, or another folder"
        )
    return manifest
