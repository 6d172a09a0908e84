"""Head cohorts as data sets: label maps -> images and masks in nnU-Net's raw layout.

A case is a head of the label maps at a contrast, a site and as an individual; its id says all four.
The same settings give the same voxels, whatever else is in the cohort. What is drawn
depends on different things, so that cases can be compared:

| drawn | depends on |
| --- | --- |
| tissue signals | head, individual |
| lesion | head, individual |
| texture | head, individual, `draw` |
| bias field | head, individual, site |
| noise | head, individual, site, contrast, `draw` |

So the truth of a head at another site is the same individual there, and another `draw` of texture
and noise is the best that a model could do which knows anatomy, individual and site exactly.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from engine.config import FrozenConfig
from engine.errors import LayoutError
from engine.seeds import noise_seed
from engine.volumes.geometry.grids import regrid, regrid_classes
from engine.volumes.heads.anatomy import Anatomy, LabelMapFile, read_anatomy
from engine.volumes.heads.appearance import make_signal
from engine.volumes.heads.contrasts import Contrast, draw_signals
from engine.volumes.heads.fields import stream
from engine.volumes.heads.labels import label_names, raw_labels
from engine.volumes.heads.lesions import plan_lesion
from engine.volumes.heads.sites import SITES, Site, SiteGrid, find_site, lay_grid, scan
from engine.volumes.layouts.description import DESCRIPTION, has_description, read_description
from engine.volumes.nifti import write_nifti
from engine.volumes.volume import Volume

MODEL_VERSION = 1  # of the appearance model: another one gives other voxels
_TAILS = {"train": "Tr", "test": "Ts"}
_REFERENCE = "label maps: B. Billot et al., SynthSeg, Medical Image Analysis 2023, Apache-2.0"


class HeadConfig(FrozenConfig):
    """What a head cohort looks like.

    Attributes:
        contrast: "t1", "t2" or "flair".
        site: "A".."D" for all cases, or None to deal the sites out.
        stripped: whether the image is 0 outside the brain; else the whole head is in it.
        lesions: whether every individual has a tumour, with a mask in BraTS's classes.
        growth: of the lesions, 0 to 1 (grown).
        slice_mm: slice thickness instead of the site's.
        draw: of texture and noise: another number is the same patient scanned again.
    """

    contrast: Contrast = "flair"
    site: str | None = None
    stripped: bool = True
    lesions: bool = False
    growth: float = Field(1.0, gt=0, le=1)
    slice_mm: float | None = Field(None, gt=0, le=20)
    draw: int = Field(0, ge=0)

    def site_of(self, name: str, individual: int) -> Site:
        """The site of a case.

        Raises:
            ConfigError: there is no such site.
        """
        if self.site is None:
            site = SITES[noise_seed(0, name, individual, "site") % len(SITES)]
        else:
            site = find_site(self.site)
        return site if self.slice_mm is None else dataclasses.replace(site, slice_mm=self.slice_mm)


@dataclass(frozen=True)
class Head:
    """One artificial patient: image, mask and brain mask on the site's grid (RAS+ axes).

    Attributes:
        case_id: head, contrast, site and individual.
        image: int16 in the site's units; 0 outside the brain where it is stripped.
        labels: uint8, raw labels of `labels.RAW_LABELS` and lesions.
        brain: uint8, 1 inside the brain.
    """

    case_id: str
    image: Volume
    labels: Volume
    brain: Volume


def head_id(name: str, contrast: Contrast, site: str, individual: int) -> str:
    """Case id of a head.

    >>> head_id("head03", "flair", "B", 0)
    'head03_flair_B_i0'
    """
    return f"{name}_{contrast}_{site}_i{individual}"


def make_head(anatomy: Anatomy, config: HeadConfig, seed: int, individual: int = 0) -> Head:
    """Make one case; the same arguments give the same voxels.

    Args:
        anatomy: the head.
        config: contrast, site and the rest.
        seed: the cohort.
        individual: another one has other tissue signals, texture, noise and lesions.

    Raises:
        ConfigError: no such site, or voxels that the label map is too coarse for.
        VolumeError: no room for a lesion.
    """
    name, site = anatomy.name, config.site_of(anatomy.name, individual)
    case_id = head_id(name, config.contrast, site.name, individual)
    grid = lay_grid(site, anatomy.size_zyx, anatomy.affine)
    lesions = None
    if config.lesions:
        plan = plan_lesion(anatomy, stream(seed, "lesion", name, individual))
        lesions = plan.mask(config.growth)
    signals = draw_signals(config.contrast, stream(seed, "signals", name, individual))
    texture = stream(seed, f"texture {config.draw}", name, individual)
    signal = make_signal(anatomy, signals, config.contrast, texture, lesions)
    image = scan(
        signal,
        site,
        grid,
        stream(seed, f"bias {site.name}", name, individual),
        stream(seed, f"noise {site.name} {config.contrast} {config.draw}", name, individual),
    )
    brain = _on_grid(anatomy.brain, grid)
    labels = regrid_classes(raw_labels(anatomy.tissues, anatomy.brain, lesions), grid.weights_zyx)
    labels[~brain] = 0
    brain &= labels > 0  # the two agree: every voxel of the brain has a label
    if config.stripped:
        image = np.where(brain, np.maximum(image, 1), 0).astype(np.int16)  # 0 is outside only
    volumes = (
        Volume(array, grid.affine, case_id) for array in (image, labels, brain.astype(np.uint8))
    )
    return Head(case_id, *volumes)


def write_heads(
    out: Path,
    files: Iterable[tuple[LabelMapFile, int]],
    config: HeadConfig,
    seed: int,
    on_case: Callable[[str], None] | None = None,
) -> list[str]:
    """Write heads as an nnU-Net raw data set with brain masks (`imagesTr`, `imagesTs`, ...).

    A case whose three files exist is left as it is.

    Args:
        out: data set folder.
        files: label maps, each with the number of an individual.
        config: contrast, site and the rest.
        seed: the cohort.
        on_case: called with each case id when its files are there.

    Returns:
        Case ids, in the order of `files`.

    Raises:
        LayoutError: the folder holds another data set, or heads made with other settings.
        ConfigError: no such site.
        VolumeError: a file is no head label map.
    """
    _refuse_other_data(out, config, seed)
    _describe(out, config, seed)
    names, anatomy, last = [], None, None
    for file, individual in files:
        site = config.site_of(file.name, individual)
        case_id = head_id(file.name, config.contrast, site.name, individual)
        paths = _paths(out, file, case_id)
        if not all(path.is_file() for path in paths):
            if anatomy is None or last != file:
                anatomy, last = read_anatomy(file), file
            head = make_head(anatomy, config, seed, individual)
            for path, volume in zip(paths, (head.image, head.labels, head.brain), strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_nifti(path, volume)
        names.append(case_id)
        if on_case is not None:
            on_case(case_id)
    _describe(out, config, seed)
    return names


def _on_grid(mask: NDArray[np.bool_], grid: SiteGrid) -> NDArray[np.bool_]:
    """Voxels of which at least half lie inside."""
    return np.asarray(regrid(mask.astype(np.float32), grid.weights_zyx, 0.0) >= 0.5)


def _paths(out: Path, file: LabelMapFile, case_id: str) -> tuple[Path, Path, Path]:
    tail = _TAILS[file.split]
    return (
        out / f"images{tail}" / f"{case_id}_0000.nii.gz",
        out / f"labels{tail}" / f"{case_id}.nii.gz",
        out / f"brainmasks{tail}" / f"{case_id}.nii.gz",
    )


def _settings(config: HeadConfig, seed: int) -> dict[str, Any]:
    """What all cases of a folder share; sites may differ, their ids say which."""
    shared = config.model_dump(mode="json", exclude={"site"})
    return {"model_version": MODEL_VERSION, "seed": seed, **shared}


def _refuse_other_data(out: Path, config: HeadConfig, seed: int) -> None:
    if out.exists() and not out.is_dir():
        raise LayoutError(f"{out}: a file; choose a folder with --out")
    known = read_description(out / DESCRIPTION).get("head_cohort") if has_description(out) else None
    if known is None and out.exists() and any(out.iterdir()):
        raise LayoutError(f"{out}: holds other data; choose an empty folder with --out")
    wanted = _settings(config, seed)
    if known is not None and known != wanted:
        known = known if isinstance(known, dict) else {}
        others = [key for key in wanted if known.get(key) != wanted[key]]
        differences = ", ".join(f"{key} {known.get(key)!r} not {wanted[key]!r}" for key in others)
        raise LayoutError(
            f"{out}: holds heads made with {differences}; choose another folder with --out"
        )


def _describe(out: Path, config: HeadConfig, seed: int) -> None:
    description = {
        "name": "Heads",
        "channel_names": {"0": config.contrast.upper()},
        "labels": label_names(lesions=config.lesions),
        "numTraining": len(list((out / "labelsTr").glob("[!.]*.nii.gz"))),
        "file_ending": ".nii.gz",
        "reference": _REFERENCE,
        "head_cohort": _settings(config, seed),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
