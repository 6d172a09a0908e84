"""Two folders, one of images and one of masks, whose files have equal names.

An image may carry nnU-Net's channel number (`pat1_0000`). Masks may come alone.
"""

from __future__ import annotations

from pathlib import Path

from engine.errors import LayoutError
from engine.volumes.layouts.cases import CaseFiles, Listing
from engine.volumes.layouts.naming import Folder, list_folder, subfolder
from engine.volumes.layouts.one_folder import read_flat
from engine.volumes.layouts.pairing import pair


def read(
    root: Path | None, images: Path | None, masks: Path | None, channel: int | None
) -> Listing:
    """The cases of two folders.

    Args:
        root: the data set's folder; None where `masks` is given.
        images: as the user wrote it (see `find_given`); None is `images` in root, if there is one.
        masks: likewise; None is `masks` or `labels` in root.
        channel: which numbered image, or channel of a 4D image.

    Raises:
        LayoutError: no such folder, or files that do not belong together.
    """
    given = images is not None
    images = find_given(images, root, "images") if images is not None else _images_of(root)
    masks = find_given(masks, root, "masks") if masks is not None else _masks_of(root)
    if images is not None and images.resolve() == masks.resolve():
        return read_flat(masks, channel)
    found = list_folder(masks)
    if images is None:
        cases = [CaseFiles(case_id, None, mask) for case_id, mask in found.files.items()]
        return Listing(cases, _unread(found))
    pictures = list_folder(images)
    if given and not pictures.files and not pictures.unread:
        raise LayoutError(f"{images}: no image in it; correct --images")
    pairs = pair(pictures, found, channel)
    cases = [
        CaseFiles(case_id, image.file, found.files[case_id], channel=image.channel)
        for case_id, image in pairs.images.items()
    ]
    return Listing(cases, _unread(pictures) | _unread(found) | pairs.left_out)


def read_below(root: Path, channel: int | None) -> Listing:
    """The cases of `images` and `masks` (or `labels`) in a data set's folder; see `read`."""
    return read(root, None, None, channel)


def find_given(path: Path, root: Path | None, key: str) -> Path:
    """A folder as a user gives it: from the current folder, then below the data set's.

    Raises:
        LayoutError: in neither; names both.
    """
    looked = [path.absolute()]
    if root is not None and not path.is_absolute():
        looked.append(root.absolute() / path)
    for place in looked:
        if place.is_dir():
            return place
    names = " nor ".join(str(place) for place in looked)
    verb = "no such folder" if len(looked) == 1 else "neither is a folder"
    raise LayoutError(f"{names}: {verb}; correct --{key}")


def _images_of(root: Path | None) -> Path | None:
    folder = None if root is None else subfolder(root, "images")
    return folder if folder is not None and folder.is_dir() else None


def _masks_of(root: Path | None) -> Path:
    if root is None:
        raise LayoutError("no masks; give --masks, or the data set's folder with --root")
    for name in ("masks", "labels"):
        if (folder := subfolder(root, name)).is_dir():
            return folder
    raise LayoutError(f"{root / 'masks'} (or labels): no such folder; correct --masks or --root")


def _unread(folder: Folder) -> dict[str, str]:
    return {f"{folder.path.name}/{name}": reason for name, reason in folder.unread.items()}
