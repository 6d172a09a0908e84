"""Images and masks in one folder: of one case each (BraTS, KiTS, TotalSegmentator), or of all.

A mask is known by a word in its name: `segmentation-3` beside `volume-3` in LiTS, `ID-seg` beside
`ID-t2f` in BraTS, `segmentation` beside `imaging` in KiTS. TotalSegmentator has a folder
`segmentations` with a file for each structure instead. Several images of a case are told apart by
the ends of their names.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import LayoutError
from engine.volumes.layouts.cases import CaseFiles, Listing, Split, check_case_id
from engine.volumes.layouts.naming import Folder, list_folder, subfolder, without_role
from engine.volumes.layouts.pairing import choose_channel

STRUCTURES = "segmentations"
_TABLE = "meta.csv"  # TotalSegmentator's: image_id, split (train, val, test), ...
_MASK_WORD = r"(?:segmentations?|seg|masks?|labels?|gt|ground[-_]?truth)"
_MASK = re.compile(rf"(?:^|.*[-_.]){_MASK_WORD}(?:[-_.]?\d+)?", re.IGNORECASE)
_LOOKED_AT = 20


@dataclass
class _Case:
    """What lies in a folder of one case; `images` by what tells them apart."""

    name: str
    masks: list[Path] = field(default_factory=list)
    images: dict[str, Path] = field(default_factory=dict)


def read_case_folders(root: Path, channel: int | None) -> Listing:
    """The cases of a folder that holds a folder of each case.

    Args:
        root: the data set's folder.
        channel: which of a case's images, in the order of the words by which their names differ.

    Raises:
        LayoutError: several masks or images of a case and none chosen, or a name that is refused.
    """
    cases, left_out = [], dict[str, str]()
    for inner in _folders(root):
        found = list_folder(inner)
        case = _sorted_out(check_case_id(inner.name, root), found)
        structures = subfolder(inner, STRUCTURES)
        if structures.is_dir():
            case.masks.append(structures)
        unread = {n: r for n, r in found.unread.items() if not (inner / n).is_dir()}
        left_out |= {f"{inner.name}/{name}": reason for name, reason in unread.items()}
        if case.masks and case.images:
            cases.append(case)
        elif case.images:
            left_out[inner.name] = f"{inner}: no mask in it; add it, or move the folder away"
        elif case.masks:
            left_out[inner.name] = f"{inner}: no image in it; add it, or move the folder away"
    return _chosen(root, cases, channel) + Listing([], left_out)


def read_flat(root: Path, channel: int | None) -> Listing:
    """The cases of one folder of images and masks, whose names share all but a word.

    Raises:
        LayoutError: as in `read_case_folders`, or an image without its mask.
    """
    found = list_folder(root)
    masks = {stem: file for stem, file in found.files.items() if _MASK.fullmatch(stem)}
    cases = {without_role(stem): _Case(stem, [file]) for stem, file in masks.items()}
    alone = []
    for stem in found.files.keys() - masks.keys():
        base = _base_of(without_role(stem), cases)
        if base is None:
            alone.append(stem)
        else:
            cases[base].images[without_role(stem)[len(base) :].strip("-_.")] = found.files[stem]
    alone += [case.name for case in cases.values() if not case.images]
    if len(cases) < len(masks) or alone:
        names = sorted(alone or masks)[:10]
        raise LayoutError(
            f"{root}: it cannot be told which image belongs to which mask ({names}); put images "
            "and masks into a folder each, with equal names"
        )
    unread = {n: r for n, r in found.unread.items() if not (root / n).is_dir()}
    return _chosen(root, list(cases.values()), channel) + Listing([], unread)


def looks_like_case_folders(root: Path) -> bool:
    """Whether the first folders below hold an image and its mask each."""
    for inner in list(_folders(root))[:_LOOKED_AT]:
        found = list_folder(inner).files if _has_volumes(inner) else {}
        masks = [stem for stem in found if _MASK.fullmatch(stem)]
        if len(masks) < len(found) and (masks or subfolder(inner, STRUCTURES).is_dir()):
            return True
    return False


def looks_flat(root: Path) -> bool:
    """Whether images and masks lie side by side."""
    found = list_folder(root).files if _has_volumes(root) else {}
    return 0 < sum(_MASK.fullmatch(stem) is not None for stem in found) < len(found)


def _folders(root: Path) -> Iterator[Path]:
    for inner in sorted(root.iterdir()):
        if inner.is_dir() and not inner.name.startswith("."):
            yield inner


def _has_volumes(folder: Path) -> bool:
    names = (path.name.lower() for path in folder.iterdir())
    return any(name.endswith((".nii.gz", ".nii", ".mha", ".nrrd")) for name in names)


def _sorted_out(name: str, found: Folder) -> _Case:
    """Masks and images of one case; images by the end of their name that the case's has not."""
    case = _Case(name)
    for stem, file in found.files.items():
        if _MASK.fullmatch(stem):
            case.masks.append(file)
        else:
            case.images[stem.removeprefix(name).strip("-_.") or stem] = file
    return case


def _chosen(root: Path, cases: list[_Case], channel: int | None) -> Listing:
    """One mask and one image of each case; the same one of all."""
    kinds = sorted({kind for case in cases for kind in case.images})
    splits = _splits(root)
    chosen, left_out = [], dict[str, str]()
    for case in cases:
        if len(case.masks) > 1:
            names = ", ".join(mask.name for mask in case.masks)
            raise LayoutError(
                f"{root}: several masks of {case.name} ({names}); merge them into one label map, "
                "or move the others away"
            )
        if channel is not None and channel < len(kinds) and kinds[channel] not in case.images:
            left_out[case.name] = f"{root}: {case.name} has no image {kinds[channel]}; add it"
            continue
        numbered = {n: case.images[kind] for n, kind in enumerate(kinds) if kind in case.images}
        image = choose_channel(numbered, channel, None, f"{root}: {case.name}")
        split = splits.get(case.name, "train")
        chosen.append(CaseFiles(case.name, image, case.masks[0], split=split))
    if channel is None and len({tuple(case.images) for case in cases}) > 1:
        raise LayoutError(
            f"{root}: cases of different images ({', '.join(kinds[:10])}); give --channel, their "
            f"number in this order"
        )
    return Listing(chosen, left_out)


def _splits(root: Path) -> dict[str, Split]:
    """Case id -> split, where a table says so; validation cases are test cases.

    Raises:
        LayoutError: the table cannot be read.
    """
    path = root / _TABLE
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LayoutError(f"{path}: cannot be read ({error}); restore or remove it") from None
    first = text.partition("\n")[0]
    rows = csv.DictReader(text.splitlines(), delimiter=";" if ";" in first else ",")
    split_of = {row.get("image_id"): row.get("split") for row in rows}
    return {
        name: "train" if split == "train" else "test"
        for name, split in split_of.items()
        if name and split
    }


def _base_of(stem: str, cases: Mapping[str, object]) -> str | None:
    """The longest mask name that an image's begins with, up to a separator."""
    fitting = [b for b in cases if stem == b or (stem.startswith(b) and stem[len(b)] in "-_.")]
    return max(fitting, key=len) if fitting else None
