"""Data set folders -> which files make up which case. The first arrow of the data path.

nnU-Net raw (imagesTr/labelsTr, imagesTs/labelsTs, and brainmasksTr/Ts where they are), Medical
Segmentation Decathlon, or two folders of equal names. Opens no volume.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.errors import LayoutError

Layout = Literal["auto", "nnunet", "msd", "folders"]
Split = Literal["train", "test"]

_CASE_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_SUFFIXES = (".nii.gz", ".nii")
_CHANNEL = re.compile(r"_\d{4}$")
_MAX_JSON_BYTES = 16 * 2**20


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    Attributes:
        case_id: letters, digits, `_`, `-`, `.`, not starting with a dot.
        image: intensities, or None for a mask without an image.
        mask: raw labels.
        brain_mask: non-zero inside the brain, where the data set has it.
        split: "train" or "test", as the data set says.
    """

    case_id: str
    image: Path | None
    mask: Path
    brain_mask: Path | None = None
    split: Split = "train"


def find_cases(
    root: Path,
    layout: Layout = "auto",
    images: Path | None = None,
    masks: Path | None = None,
    channel: int = 0,
) -> tuple[CaseFiles, ...]:
    """List a data set's cases, sorted by id.

    Args:
        root: the data set's folder.
        layout: how it is laid out; "auto" looks.
        images: layout "folders" only: folder of images (default `images`, if there is one).
        masks: layout "folders" only: folder of masks (default `masks` or `labels`).
        channel: layout "nnunet" only: which channel (`_0000`, `_0001`, ...) is the image.

    Raises:
        LayoutError: no cases, an unknown layout, a refused case id, an id used twice, or an image
            without its mask or a mask without its image.
    """
    if not root.is_dir():
        raise LayoutError(f"{root}: no such folder; give the data set's folder")
    if layout == "auto":
        layout = _guess(root, images, masks)
    if layout == "nnunet":
        cases = _nnunet(root, channel)
    elif layout == "msd":
        cases = _msd(root)
    elif layout == "folders":
        cases = _folders(root, images, masks)
    else:
        raise LayoutError(f"{root}: unknown layout {layout!r}; use auto, nnunet, msd or folders")
    if not cases:
        raise LayoutError(f"{root}: no case with a mask in it; expected .nii.gz or .nii files")
    _refuse_twice(root, cases)
    return tuple(sorted(cases, key=lambda case: case.case_id))


def check_case_id(case_id: str, where: Path | str) -> str:
    """Return the id, or refuse it before it becomes a file name.

    Raises:
        LayoutError: other characters than letters, digits, `_`, `-`, `.`, or a leading dot.
    """
    if not _CASE_ID.fullmatch(case_id):
        raise LayoutError(
            f"{where}: case id {case_id!r} is refused; rename the file to letters, digits, "
            "'_', '-' and '.', not starting with a dot (128 characters at most)"
        )
    return case_id


def _guess(root: Path, images: Path | None, masks: Path | None) -> Layout:
    if images is not None or masks is not None:
        return "folders"
    if (root / "dataset.json").is_file() and "training" in _read_json(root / "dataset.json"):
        return "msd"
    if (root / "labelsTr").is_dir() or (root / "labelsTs").is_dir():
        return "nnunet"
    if (root / "masks").is_dir() or (root / "labels").is_dir():
        return "folders"
    raise LayoutError(
        f"{root}: none of the known layouts (nnU-Net: labelsTr; MSD: dataset.json with `training`; "
        "folders: images and masks); name the layout and its folders"
    )


def _nnunet(root: Path, channel: int) -> list[CaseFiles]:
    description = root / "dataset.json"
    if description.exists():
        _check_nnunet_json(description, _read_json(description), channel)
    cases = []
    splits: tuple[tuple[str, Split], ...] = (("Tr", "train"), ("Ts", "test"))
    for tail, split in splits:
        masks = _by_id(root / f"labels{tail}")
        images = {
            case_id[:-5]: file
            for case_id, file in _by_id(root / f"images{tail}").items()
            if case_id.endswith(f"_{channel:04d}")
        }
        brains = _by_id(root / f"brainmasks{tail}")
        if tail == "Ts":  # a test image may lack its mask: it is no case then
            images = {case_id: file for case_id, file in images.items() if case_id in masks}
        _refuse_unpaired(root, images, masks, f"imagesTr/ID_{channel:04d}.nii.gz", tail)
        cases += [
            CaseFiles(case_id, images[case_id], mask, brains.get(case_id), split)
            for case_id, mask in masks.items()
        ]
    return cases


def _msd(root: Path) -> list[CaseFiles]:
    description = root / "dataset.json"
    rows = _read_json(description).get("training")
    if not isinstance(rows, list) or not rows:
        raise LayoutError(f"{description}: `training` is not a list of cases; restore the file")
    cases = []
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not {"image", "label"} <= set(row):
            raise LayoutError(
                f"{description}: training[{number}] has no `image` and `label`; restore the file"
            )
        image, mask = (_inside(root, description, row[key]) for key in ("image", "label"))
        cases.append(CaseFiles(_id_of(mask), image, mask))
    return cases


def _folders(root: Path, images: Path | None, masks: Path | None) -> list[CaseFiles]:
    if masks is None:
        masks = root / "masks" if (root / "masks").is_dir() else root / "labels"
    if images is None and (root / "images").is_dir():
        images = root / "images"
    for folder in (images, masks):
        if folder is not None and not folder.is_dir():
            raise LayoutError(f"{folder}: no such folder; correct `images` or `masks`")
    found = _by_id(masks)
    if images is None:
        return [CaseFiles(case_id, None, mask) for case_id, mask in found.items()]
    by_id = {
        case_id if case_id in found else _CHANNEL.sub("", case_id): file
        for case_id, file in _by_id(images).items()
    }
    _refuse_unpaired(root, by_id, found, f"{images.name}/ID.nii.gz", "")
    return [CaseFiles(case_id, by_id[case_id], mask) for case_id, mask in found.items()]


def _by_id(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or not file.name.endswith(_SUFFIXES):
            continue
        case_id = _id_of(file)
        if case_id in found:
            raise LayoutError(
                f"{file}: duplicate case id {case_id}, also {found[case_id].name}; remove one"
            )
        found[case_id] = file
    return found


def _id_of(file: Path) -> str:
    name = file.name
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return check_case_id(name.removesuffix(suffix), file)
    raise LayoutError(f"{file}: not a NIfTI name; convert the file to .nii.gz (or .nii)")


def _inside(root: Path, description: Path, name: Any) -> Path:
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise LayoutError(
            f"{description}: path {name!r} leaves the data set's folder; use paths inside it"
        )
    path = root / name
    if not path.is_file():
        raise LayoutError(f"{description}: {name} is missing; restore the file or drop its row")
    return path


def _refuse_unpaired(
    root: Path, images: dict[str, Path], masks: dict[str, Path], pattern: str, tail: str
) -> None:
    without_image = sorted(set(masks) - set(images))
    if without_image:
        raise LayoutError(
            f"{root}: no image for the masks {without_image[:10]} (expected "
            f"{pattern.replace('Tr', tail or 'Tr')}); add them, or give the masks alone as folders"
        )
    without_mask = sorted(set(images) - set(masks))
    if without_mask:
        raise LayoutError(f"{root}: no mask for the images {without_mask[:10]}; add or remove them")


def _refuse_twice(root: Path, cases: list[CaseFiles]) -> None:
    ids = [case.case_id for case in cases]
    twice = sorted({case_id for case_id in ids if ids.count(case_id) > 1})
    if twice:
        raise LayoutError(f"{root}: duplicate case ids {twice[:10]}; rename one file of each")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise LayoutError(f"{path}: over {_MAX_JSON_BYTES} bytes, no data set description")
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LayoutError(f"{path}: missing; restore it, or name another layout") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise LayoutError(f"{path}: not valid JSON ({error}); correct the file") from None
    if not isinstance(raw, dict):
        raise LayoutError(f"{path}: the top level is no object; write {{...}}")
    return raw


def _check_nnunet_json(path: Path, raw: dict[str, Any], channel: int) -> None:
    channels = raw.get("channel_names", raw.get("modality", {}))
    if not isinstance(channels, dict) or not isinstance(raw.get("labels", {}), dict):
        raise LayoutError(f"{path}: `channel_names` and `labels` must be objects; correct the file")
    if channels and str(channel) not in channels:
        raise LayoutError(
            f"{path}: no channel {channel} (there are {sorted(channels)}); correct it"
        )
    ending = raw.get("file_ending", ".nii.gz")
    if ending not in _SUFFIXES:
        raise LayoutError(f"{path}: file_ending {ending!r} is not read; convert to .nii.gz")
