"""A data set's folder -> its cases: recognises the layout and has its reader read it.

A new layout is a file with a reader and a line in `_READERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from engine.errors import LayoutError
from engine.log import get_logger
from engine.volumes.layouts import folders, listed, nnunet, one_folder
from engine.volumes.layouts.cases import CaseFiles, Listing, refuse_twice
from engine.volumes.layouts.description import DESCRIPTION, has_description, read_description
from engine.volumes.layouts.naming import list_folder, split_channel, subfolder

log = get_logger(__name__)

Layout = Literal["auto", "nnunet", "nnunet_v1", "msd", "folders", "case_folders", "flat"]

_READERS: dict[str, Callable[[Path, int | None], Listing]] = {
    "nnunet": nnunet.read,
    "nnunet_v1": listed.read,
    "msd": listed.read,
    "folders": folders.read_below,
    "case_folders": one_folder.read_case_folders,
    "flat": one_folder.read_flat,
}
_NNUNET_2 = {"channel_names", "file_ending", "dataset"}
_SHOWN = 8


def find_cases(
    root: Path | None,
    layout: Layout = "auto",
    images: Path | None = None,
    masks: Path | None = None,
    channel: int | None = None,
) -> tuple[CaseFiles, ...]:
    """The cases of `list_data_set`."""
    return tuple(list_data_set(root, layout, images, masks, channel).cases)


def list_data_set(
    root: Path | None,
    layout: Layout = "auto",
    images: Path | None = None,
    masks: Path | None = None,
    channel: int | None = None,
) -> Listing:
    """List a data set: its cases, sorted by id, and what had to be left out.

    Args:
        root: the data set's folder; may be None where `masks` is given.
        layout: how it is laid out; "auto" looks.
        images: layout "folders" only: folder of images (default `images`, if there is one); a
            relative one is looked for in the current folder, then below `root`.
        masks: layout "folders" only: folder of masks (default `masks` or `labels`); likewise.
        channel: which image of a case that has several: `_0000`, `_0001`, ... or the channel of a
            4D file. None is nnU-Net's 0 in its layouts, and elsewhere the only one.

    Raises:
        LayoutError: no cases, an unknown layout, a refused case id, an id used twice, an image
            without its mask or a mask without its image, or a channel that is not there.
    """
    if layout not in get_args(Layout):
        known = ", ".join(get_args(Layout))
        raise LayoutError(f"{root}: unknown layout {layout!r}; use {known}")
    given = images is not None or masks is not None
    if given and layout not in ("auto", "folders"):
        raise LayoutError(f"--images and --masks are for --layout folders, not {layout}: drop one")
    if root is None and masks is None:
        raise LayoutError("no data set; give its folder with --root, or --images and --masks")
    if root is not None and not root.is_dir():
        wrong = "a file, no folder" if root.is_file() else "no such folder"
        raise LayoutError(f"{root}: {wrong}; give the data set's folder")
    if given or root is None:
        found = folders.read(root, images, masks, channel)
    else:
        found = _read(root, recognise(root) if layout == "auto" else layout, channel)
    where = root or masks
    assert where is not None
    if not found.cases:
        raise LayoutError(f"{where}: no case with a mask in it; {_what_is_there(where, found)}")
    refuse_twice(where, found.cases)
    return Listing(tuple(sorted(found.cases, key=lambda case: case.case_id)), found.left_out)


def recognise(root: Path) -> Layout:
    """Which layout a data set's folder has, by its description and folders.

    Raises:
        LayoutError: none that is known; says what is there.
    """
    raw = read_description(root / DESCRIPTION) if has_description(root) else {}
    has_labels = any(subfolder(root, name).is_dir() for name in ("labelsTr", "labelsTs"))
    if "dataset" in raw:
        return "nnunet"
    if "training" in raw and not (has_labels and _is_plain_nnunet(root, raw)):
        first = listed.first_image(root, raw) if listed.lists_files(raw) else None
        as_listed = first is None or first.exists() or not _has_channels(first.parent)
        return "msd" if as_listed else "nnunet_v1"
    if has_labels:
        return "nnunet"
    if any(subfolder(root, name).is_dir() for name in ("masks", "labels")):
        return "folders"
    if one_folder.looks_like_case_folders(root):
        return "case_folders"
    if one_folder.looks_flat(root):
        return "flat"
    raise LayoutError(
        f"{root}: none of the known layouts (--layout nnunet: imagesTr and labelsTr; msd or "
        "nnunet_v1: dataset.json with `training`; folders: --images and --masks; case_folders: a "
        "folder of each case; flat: names such as volume-1 and segmentation-1); "
        f"{_what_is_there(root, Listing([]))}"
    )


def _read(root: Path, layout: str, channel: int | None) -> Listing:
    """Read by one layout; where another would be right, say which."""
    found, problem = Listing([]), f"{root}: no case as --layout {layout}"
    try:
        found = _READERS[layout](root, channel)
    except LayoutError as error:
        problem = str(error)
        if (other := _other(root, layout)) is None:
            raise
    else:
        if found.cases or (other := _other(root, layout)) is None:
            return found
    raise LayoutError(f"{problem} (the folder looks like --layout {other})")


def _other(root: Path, layout: str) -> str | None:
    try:
        right = recognise(root)
    except LayoutError:
        return None
    return None if right == layout else right


def _is_plain_nnunet(root: Path, raw: object) -> bool:
    """nnU-Net 2 takes its folders as they are, whatever version 1's lists beside them say."""
    assert isinstance(raw, dict)
    return bool(_NNUNET_2 & raw.keys()) and _has_channels(subfolder(root, "imagesTr"))


def _has_channels(folder: Path) -> bool:
    return any(split_channel(stem)[1] is not None for stem in list_folder(folder).files)


def _has_dicom(folder: Path) -> bool:
    return any(
        path.suffix.lower() == ".dcm" or path.name == "DICOMDIR" for path in folder.iterdir()
    )


def _what_is_there(root: Path, found: Listing) -> str:
    """What a wrong folder holds, and which one may have been meant."""
    if found.left_out:
        name, reason = next(iter(found.left_out.items()))
        return f"{len(found.left_out)} files are not read, for example {name}: {reason}"
    inner = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    sets = [p.name for p in inner if (p / DESCRIPTION).is_file() or (p / "labelsTr").is_dir()]
    if sets:
        return f"it holds the data sets {', '.join(sets[:_SHOWN])}: give one of them"
    if root.name.lower() in ("imagestr", "labelstr", "images", "labels", "masks"):
        return f"this is a folder of one: give {root.absolute().parent}"
    if (root / "gt_segmentations").is_dir():
        return "it is preprocessed by nnU-Net: give the raw data set (in nnUNet_raw)"
    if any(folder.suffix == ".zarr" for folder in inner):
        return "it holds prepared cases: give them to the other jobs with --data"
    if any((folder / "plan.jsonl").is_file() for folder in (root, *inner)):
        return "it is a run: export it first (jobs/export_volumes.py --layout nnunet)"
    if subfolder(root, "imagesTr").is_dir():
        return "it has imagesTr and no labelsTr: put the masks there, named ID.nii.gz"
    if any(_has_dicom(folder) for folder in (root, *inner[:_SHOWN])):
        return "it holds DICOM: convert each series to .nii.gz (dcm2niix), masks beside them"
    files = list_folder(root).files
    names = [f"{p.name}/" for p in inner] + sorted(file.name for file in files.values())
    if not names:
        return "the folder holds no .nii.gz and no folder of them"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"it holds {', '.join(names[:_SHOWN])}{more}: put images and masks into a folder each"
