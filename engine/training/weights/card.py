"""The model card: README.md of a weights folder, written from what the stages recorded."""

from __future__ import annotations

from pathlib import Path

from models.weights.folder import Manifest, read_manifest

_USE = """\
## Use

Made to show and test the engine. **Not for science, not for diagnosis**: volumes sampled with these
weights are synthetic, and a model of this size trained on these few cases represents no population.
"""


def write_card(folder: Path) -> Path:
    """Write the folder's README.md from its manifest.

    Args:
        folder: of weights; its config.json names the stages.

    Returns:
        Path of the card.
    """
    manifest = read_manifest(folder)
    path = folder / "README.md"
    text = render_card(folder.resolve().name, manifest)
    settings = sorted(found.name for found in folder.glob("train_*.yaml"))
    if settings:
        text += f"\nSettings of the stages: {', '.join(settings)}.\n"
    path.write_text(text, encoding="utf-8")
    return path


def render_card(name: str, manifest: Manifest) -> str:
    """The card's text: what it takes, what it was trained on and for how long."""
    preset = manifest.preset
    classes = ", ".join(f"{i} {n}" for i, n in enumerate(manifest.class_names, start=1))
    lines = [
        f"# Model card: {name}",
        "",
        f"Preset `{preset.name}`: slices of {preset.size_px} x {preset.size_px} px at "
        f"{manifest.spacing_mm_yx:g} mm ({manifest.modality.upper()}), windows of {preset.window} "
        f"slices, {preset.autoencoder.latent_channels} x {preset.latent_px} x {preset.latent_px} "
        f"latents, {manifest.schedule.get('prediction_type')} prediction.",
        "",
        f"Mask classes: {classes}.",
        "",
        "Tensors are safetensors in float16; the denoiser is the average (EMA) of its training.",
        "",
        "## Training",
        "",
        "| stage | steps | minutes | examples a step | cases | held out | workers | parameters "
        "| loss |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for stage, e in manifest.stages.items():
        held_out = ", ".join(e["holdout"]) or "none"
        lines.append(
            f"| {stage} | {e['iterations']} | {e['seconds'] / 60:.0f} "
            f"| {e.get('examples_per_step', e['batch_size'])} "
            f"| {e['num_cases']} | {held_out} | {e['num_workers']} "
            f"| {e['num_parameters'] / 1e6:.2f} M | {e['loss']} |"
        )
    lines += ["", *_remarks(manifest)]
    about = dict.fromkeys(e["about"] for e in manifest.stages.values() if e.get("about"))
    lines += ["", *(f"{text}\n" for text in about), _USE]
    return "\n".join(lines)


def _remarks(manifest: Manifest) -> list[str]:
    """What a user of these weights has to know beside the table."""
    remarks = []
    if manifest.condition_dropout > 0.0:
        remarks.append(
            f"Trained with {manifest.condition_dropout:.0%} of the examples without conditions: "
            "guidance_scale may be other than 1.\n"
        )
    for stage, e in manifest.stages.items():
        if e.get("missing_classes"):
            names = ", ".join(e["missing_classes"])
            remarks.append(f"Stage {stage} saw no mask with {names}: it cannot make them.\n")
        if e.get("num_skipped"):
            remarks.append(f"Stage {stage} left out {e['num_skipped']} cases that are too short.\n")
        if e.get("solver"):
            remarks.append(
                f"Distilled: sample with solver {e['solver']}, eta 0 and "
                f"{e['num_inference_steps']} steps.\n"
            )
    return remarks
