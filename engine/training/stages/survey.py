"""From settings to a survey: which cases, which weights, which caches. Nothing is encoded yet."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from engine.errors import TrainingError, WeightsError
from engine.sampling.diffusion.schedule import ScheduleConfig
from engine.training.config import TrainConfig, TrainSettings
from engine.training.examples.cache import CachePlan, plan_latents, plan_pixels
from engine.training.examples.cases import check_cases, find_cases
from engine.training.settings.parts import ModelSettings
from engine.training.stages.base import StageModel, Survey
from engine.training.stages.registry import STAGES, stage_class
from engine.training.stages.vision_tower import check_tower
from engine.volumes.prepared.store import PreparedHeader
from engine.weights import weights_errors
from models.presets import PRESETS, AutoencoderSpec, DenoiserSpec, Preset
from models.weights.folder import CONFIG, Manifest, read_manifest


def survey(config: TrainConfig) -> Survey:
    """What the training of `config` starts from, checked.

    Raises:
        TrainingError: no cases, or cases that do not fit together or with the preset.
        WeightsError: an earlier stage is missing or of another architecture.
    """
    stage, preset = stage_class(config.stage), resolve_preset(config)
    source = stage.source(config)
    cases = find_cases(config)
    check_cases(cases, config, preset)
    with weights_errors():
        manifest = _manifest(stage, config, cases, preset)
    if stage.takes_tokens:
        check_tower(config, manifest, source)
    for name in stage.needs:
        if not (source / name).is_file():
            raise WeightsError(f"{source / name}: not found; run the earlier stage first")
    held_out = [c for c in find_cases(config, held_out=True) if "image" in c.sha256]
    held_out = [c for c in held_out if c.size_zyx[1:] == cases[0].size_zyx[1:]]
    settings = config.nested()
    plain = config.model_copy(update={"num_augmented": 0}).nested()
    plan = _plan_cache(stage, settings, cases, manifest)
    probe = _plan_cache(stage, plain, held_out, manifest)
    return Survey(config, settings, tuple(cases), tuple(held_out), manifest, plan, probe)


def resolve_preset(config: ModelSettings) -> Preset:
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


def _plan_cache(
    stage: type[StageModel],
    settings: TrainSettings,
    cases: list[PreparedHeader],
    manifest: Manifest,
) -> CachePlan:
    if stage.pixels:
        return plan_pixels(cases, settings)
    return plan_latents(cases, manifest, stage.source(settings.folders), settings)


def _manifest(
    stage: type[StageModel], config: TrainConfig, cases: list[PreparedHeader], preset: Preset
) -> Manifest:
    """That of the weights that the stage goes on from, or a new one from the data."""
    first, folder = cases[0], stage.source(config)
    if stage.first or not (folder / CONFIG).is_file():
        return Manifest(
            preset=preset,
            num_classes=len(first.class_names),
            class_names=first.class_names,
            schedule=config.schedule.model_dump(),
            spacing_mm_yx=round(float((first.affine[:3, 0] ** 2).sum() ** 0.5), 6),
            modality="ct" if first.unit == "HU" else "mr",
        )
    found = read_manifest(folder)
    if stage.fixes_diffusion and not _has_diffusion(found):
        found = _with_diffusion(found, config, preset)
    return _adopt(stage, found, preset, first, config, folder)


def _has_diffusion(manifest: Manifest) -> bool:
    """Whether a stage before has fixed denoiser and schedule."""
    return bool(set(manifest.stages) - {name for name, stage in STAGES.items() if stage.first})


def _with_diffusion(manifest: Manifest, config: TrainConfig, preset: Preset) -> Manifest:
    fixed = {"name": preset.name, "denoiser": preset.denoiser}
    update = {
        "preset": manifest.preset.model_copy(update=fixed),
        "schedule": config.schedule.model_dump(),
    }
    return manifest.model_copy(update=update)


def _adopt(
    stage: type[StageModel],
    manifest: Manifest,
    preset: Preset,
    case: PreparedHeader,
    config: TrainConfig,
    folder: Path,
) -> Manifest:
    """The manifest of `folder`, where settings and cases go with it."""
    if manifest.preset.position is None:
        fixed = manifest.preset.model_copy(update={"position": preset.position})
        manifest = manifest.model_copy(update={"preset": fixed})
    if not manifest.preset.same_slices(preset) or manifest.class_names != case.class_names:
        raise WeightsError(
            f"{folder}: made for preset {manifest.preset.name} with fields of its own and classes "
            f"{manifest.class_names}; give the same, or another weights folder"
        )
    schedule = ScheduleConfig.model_validate(manifest.schedule)
    if stage.fixes_diffusion and schedule != config.schedule:
        raise WeightsError(
            f"{folder}: made for schedule {manifest.schedule}; give the same, or another folder"
        )
    return manifest
