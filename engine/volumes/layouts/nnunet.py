"""nnU-Net's raw data sets, version 2: `imagesTr/ID_0000.nii.gz` and `labelsTr/ID.nii.gz`.

`imagesTs` and `labelsTs` are test cases, `brainmasksTr` (`Ts`) brain masks where they are. A
`dataset` in `dataset.json` lists the training cases instead, wherever their files lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import LayoutError
from engine.log import get_logger
from engine.volumes.layouts.cases import CaseFiles, Listing, Split, check_case_id
from engine.volumes.layouts.description import (
    DESCRIPTION,
    Description,
    channel_names,
    check_channel,
    check_labels,
    has_description,
    read_description,
)
from engine.volumes.layouts.naming import (
    ENDINGS,
    list_folder,
    split_name,
    subfolder,
    unread_reason,
)
from engine.volumes.layouts.pairing import pair

log = get_logger(__name__)

_SPLITS: tuple[tuple[str, Split], ...] = (("Tr", "train"), ("Ts", "test"))
_FIRST_CHANNEL = 0  # nnU-Net's own name for the image of a data set with one modality


def read(root: Path, channel: int | None) -> Listing:
    """The cases of a raw data set; channel 0 where none is asked for.

    Raises:
        LayoutError: files, channels or description do not fit together; names them.
    """
    raw: Description = {}
    if has_description(root):
        raw = read_description(root / DESCRIPTION)
        _check(root / DESCRIPTION, raw, channel)
    listed = raw.get("dataset")
    found = Listing([]) if listed is None else _listed(root, listed, channel)
    for tail, split in _SPLITS:
        if split == "test" or listed is None:
            found += _folders(root, tail, split, channel)
    return found


def _folders(root: Path, tail: str, split: Split, channel: int | None) -> Listing:
    masks = list_folder(subfolder(root, f"labels{tail}"))
    images = list_folder(subfolder(root, f"images{tail}"))
    brains = list_folder(subfolder(root, f"brainmasks{tail}")).files
    # a test image may lack its mask: it is no case then
    pairs = pair(images, masks, channel, _FIRST_CHANNEL, images_alone=split == "test")
    cases = [
        CaseFiles(
            case_id, image.file, masks.files[case_id], brains.get(case_id), split, image.channel
        )
        for case_id, image in pairs.images.items()
    ]
    unread = {
        f"{folder.path.name}/{name}": reason
        for folder in (images, masks)
        for name, reason in folder.unread.items()
        if folder is masks or split == "train" or folder.files.keys() & masks.files.keys()
    }
    return Listing(cases, {**unread, **pairs.left_out})


def _listed(root: Path, rows: Any, channel: int | None) -> Listing:
    """The `dataset` of a `dataset.json`: {ID: {"images": [a file a channel], "label": file}}."""
    where = root / DESCRIPTION
    if not isinstance(rows, Mapping):
        raise LayoutError(f"{where}: `dataset` must be an object of cases; correct the file")
    cases, left_out = [], dict[str, str]()
    for name, row in rows.items():
        case_id = check_case_id(name, where)
        images, label = _files(where, case_id, row)
        wanted = channel or _FIRST_CHANNEL
        if wanted >= len(images):
            raise LayoutError(
                f"{where}: {case_id} has no image of channel {wanted}, there are "
                f"0 to {len(images) - 1}; correct --channel"
            )
        image, mask = root / images[wanted], root / label
        for file in (image, mask):
            if split_name(file.name) is None:
                left_out.setdefault(case_id, f"{file}: {unread_reason(file.name)}")
            elif not file.is_file():
                missing = f"{file}: missing, but {DESCRIPTION} lists it; restore it"
                left_out.setdefault(case_id, missing)
        if case_id not in left_out:
            cases.append(CaseFiles(case_id, image, mask, channel=_inner(images, channel)))
    return Listing(cases, left_out)


def _inner(images: list[str], channel: int | None) -> int | None:
    """One file of a case may be 4D; several are one channel each."""
    return channel if len(images) == 1 else None


def _files(where: Path, case_id: str, row: Any) -> tuple[list[str], str]:
    images = row.get("images") if isinstance(row, Mapping) else None
    label = row.get("label") if isinstance(row, Mapping) else None
    images = [images] if isinstance(images, str) else images
    texts = isinstance(images, list) and all(isinstance(image, str) for image in images)
    if texts and images and isinstance(label, str):
        return images, label
    raise LayoutError(
        f"{where}: dataset[{case_id!r}] needs `images` (a list of files) and `label`; correct it"
    )


def _check(path: Path, raw: Description, channel: int | None) -> None:
    check_labels(path, raw)
    channels = channel_names(path, raw)
    wanted = channel or _FIRST_CHANNEL
    check_channel(path, channels, wanted)
    if len(channels) > 1:
        log.info("%s: channel %d (%s) is the image", path, wanted, channels[wanted])
    ending = raw.get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or ending.lower() not in ENDINGS:
        raise LayoutError(f"{path}: file_ending {ending!r} is not read; convert to .nii.gz")
