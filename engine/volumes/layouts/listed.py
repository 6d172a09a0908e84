"""Data sets whose `dataset.json` lists their files: `training`, `validation`, `test`.

The Medical Segmentation Decathlon and what followed it: AMOS, BTCV, MONAI's data lists, and nnU-Net
version 1, which lists `imagesTr/ID.nii.gz` for files named `imagesTr/ID_0000.nii.gz`. An image of
several channels is one 4D file (Decathlon), a list (MONAI), or numbered files (nnU-Net).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    read_description,
)
from engine.volumes.layouts.naming import (
    Folder,
    list_folder,
    split_channel,
    split_name,
    unread_reason,
)
from engine.volumes.layouts.pairing import Image, choose_channel

log = get_logger(__name__)

_LISTS: tuple[tuple[str, Split], ...] = (
    ("training", "train"),
    ("validation", "test"),
    ("test", "test"),
    ("testing", "test"),
)
_NNUNET_DEFAULT = 0


def lists_files(raw: Description) -> bool:
    """Whether a description lists training cases."""
    return bool(raw.get("training")) and isinstance(raw["training"], list)


def first_image(root: Path, raw: Description) -> Path | None:
    """Where the first training image should be; None where the list says none."""
    row = raw["training"][0]
    name = row.get("image") if isinstance(row, Mapping) else None
    name = name[0] if isinstance(name, list) and name else name
    return root / name if isinstance(name, str) else None


def read(root: Path, channel: int | None) -> Listing:
    """The cases that the description lists; validation and test cases that have a mask are "test".

    Raises:
        LayoutError: the description or a file of it is wrong; names it.
    """
    where = root / DESCRIPTION
    raw = read_description(where)
    if not lists_files(raw):
        raise LayoutError(
            f"{where}: `training` is not a list of cases; restore the file, or give "
            "--layout nnunet to take the folders imagesTr and labelsTr as they are"
        )
    check_labels(where, raw)
    return _Reader(root, raw, channel).read()


class _Reader:
    """Reads the rows of one description; folders are looked through once."""

    def __init__(self, root: Path, raw: Description, channel: int | None) -> None:
        self._root, self._where, self._raw = root, root / DESCRIPTION, raw
        self._channel = channel
        self._names = channel_names(self._where, raw)
        self._folders: dict[Path, Folder] = {}
        if channel is not None:
            check_channel(self._where, self._names, channel)

    def read(self) -> Listing:
        cases, left_out = [], dict[str, str]()
        for image, label, split in self._rows():
            mask = self._mask(label)
            if mask is None:
                left_out[label] = f"{self._root / label}: {unread_reason(label)}"
                continue
            parts = split_name(mask.name)
            assert parts is not None
            case_id = check_case_id(parts[0], mask)
            found = self._image(image, case_id)
            if isinstance(found, str):
                left_out[case_id] = found
            else:
                cases.append(
                    CaseFiles(case_id, found.file, mask, split=split, channel=found.channel)
                )
        self._tell_unlisted(cases)
        return Listing(cases, left_out | self._unread())

    def _rows(self) -> Iterator[tuple[Any, str, Split]]:
        for key, split in _LISTS:
            rows = self._raw.get(key) or []
            for number, row in enumerate(rows if isinstance(rows, list) else []):
                if split == "test":
                    row = self._with_label(row)
                if row is None:
                    continue
                if not isinstance(row, Mapping) or not {"image", "label"} <= row.keys():
                    raise LayoutError(
                        f"{self._where}: {key}[{number}] has no `image` and `label`; restore the "
                        "file"
                    )
                yield row["image"], row["label"], split

    def _with_label(self, row: Any) -> Mapping[str, Any] | None:
        """A test row with its mask, which may lie in `labelsTs` unlisted; None without a mask."""
        image = row.get("image") if isinstance(row, Mapping) else row
        if isinstance(row, Mapping) and row.get("label"):
            return row
        path = Path(image) if isinstance(image, str) else Path()
        if not path.parent.name.startswith("images") or ".." in path.parts:
            return None
        folder = path.parent.with_name(path.parent.name.replace("images", "labels", 1))
        parts = split_name(path.name)
        mask = self._folder(self._root / folder).files.get(parts[0]) if parts else None
        label = None if mask is None else (folder / mask.name).as_posix()
        return None if label is None else {"image": image, "label": label}

    def _mask(self, name: Any) -> Path | None:
        """The mask's file; None for an ending that is not read."""
        path = self._inside(name)
        parts = split_name(path.name)
        if parts is None:
            return None if path.exists() else self._missing(name)
        return self._folder(path.parent).files.get(parts[0]) or self._missing(name)

    def _image(self, name: Any, case_id: str) -> Image | str:
        """The image, or why it cannot be read."""
        if isinstance(name, list) and name:
            several = {number: self._inside(one) for number, one in enumerate(name)}
            return Image(choose_channel(several, self._channel, None, f"{self._where}: {case_id}"))
        path = self._inside(name)
        parts = split_name(path.name)
        if parts is None:
            return f"{path}: {unread_reason(path.name)}" if path.exists() else self._missing(name)
        folder = self._folder(path.parent)
        listed = folder.files.get(parts[0])
        base, number = split_channel(parts[0])
        if listed is not None and (number is None or self._channel is None):
            return Image(listed, self._channel)
        numbered = _channels_of(folder, base if listed is not None else parts[0])
        if not numbered:
            return folder.unread_of(parts[0]) or self._missing(name)
        where = f"{path.parent}: {case_id}"
        return Image(choose_channel(numbered, self._channel, _NNUNET_DEFAULT, where))

    def _inside(self, name: Any) -> Path:
        if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
            raise LayoutError(
                f"{self._where}: path {name!r} leaves the data set's folder; use paths inside it"
            )
        return self._root / name

    def _missing(self, name: Any) -> Any:
        raise LayoutError(
            f"{self._where}: {name} is missing; restore the file or drop its row, or give --layout "
            "nnunet to take the folders imagesTr and labelsTr as they are"
        )

    def _folder(self, path: Path) -> Folder:
        if path not in self._folders:
            self._folders[path] = list_folder(path)
        return self._folders[path]

    def _unread(self) -> dict[str, str]:
        return {
            (path / name).relative_to(self._root).as_posix(): reason
            for path, folder in self._folders.items()
            for name, reason in folder.unread.items()
        }

    def _tell_unlisted(self, cases: list[CaseFiles]) -> None:
        listed = {case.mask for case in cases}
        masks = {
            file for m in {m.parent for m in listed} for file in self._folder(m).files.values()
        }
        unlisted = sorted(file.name for file in masks - listed)
        if unlisted:
            log.warning(
                "%s: %d masks are not in its lists and left out: %s",
                self._where,
                len(unlisted),
                ", ".join(unlisted[:10]),
            )


def _channels_of(folder: Folder, base: str) -> dict[int, Path]:
    channels = {}
    for stem, file in folder.files.items():
        name, number = split_channel(stem)
        if name == base and number is not None:
            channels[number] = file
    return channels
