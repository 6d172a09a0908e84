"""Images and masks of two folders -> which image belongs to which mask.

An image has its mask's name, or that name and a channel number (`pat1_0000`). Where no name is
shared at all, words such as `img` and `label` are left away (`img0001` and `label0001`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import LayoutError
from engine.log import get_logger
from engine.volumes.layouts.naming import Folder, split_channel, without_role

log = get_logger(__name__)


@dataclass(frozen=True)
class Image:
    """The image of one case.

    Attributes:
        file: where it is.
        channel: to take of this file; None takes the only one.
    """

    file: Path
    channel: int | None = None


@dataclass(frozen=True)
class Pairs:
    """Images by case id, and cases that cannot be taken, with the reason."""

    images: dict[str, Image]
    left_out: dict[str, str]


def pair(
    images: Folder,
    masks: Folder,
    channel: int | None,
    default: int | None = None,
    images_alone: bool = False,
) -> Pairs:
    """Find the image of every mask.

    Args:
        images: folder of images.
        masks: folder of masks; their names are the case ids.
        channel: which one is wanted; None is not said.
        default: taken of numbered images when `channel` is not said; None refuses to choose.
        images_alone: whether an image may lack its mask.

    Raises:
        LayoutError: two images for a mask, no such channel, or an image or mask alone.
    """
    names = _by_role(images, masks) or {case_id: case_id for case_id in masks.files}
    numbered = _numbered(images, names)
    taken: dict[str, Image] = {}
    left_out: dict[str, str] = {}
    for name, case_id in names.items():
        image = _choose(name, images, numbered.get(name, {}), channel, default)
        if image is not None:
            taken[case_id] = image
        elif reason := images.unread_of(name):
            left_out[case_id] = reason
    if channel is None and default is None:
        _refuse_mixed(images, [numbered[name] for name in names if name in numbered])
    _refuse_masks_alone(images, masks, {*taken, *left_out}, default)
    if not images_alone:
        left_out |= _images_alone(images, masks, names, numbered)
    return Pairs(taken, left_out)


def choose_channel(
    numbered: Mapping[int, Path], channel: int | None, default: int | None, what: str
) -> Path:
    """One of several files of a case, each a channel.

    Raises:
        LayoutError: the choice is not said, or there is no such channel; names those there.
    """
    there = ", ".join(f"{number} ({file.name})" for number, file in sorted(numbered.items()))
    wanted = channel if channel is not None else default
    if wanted is None and len(numbered) == 1:
        return next(iter(numbered.values()))
    if wanted is None:
        raise LayoutError(f"{what}: several images for one mask, channels {there}; give --channel")
    if wanted not in numbered:
        raise LayoutError(
            f"{what}: no image of channel {wanted}, there are {there}; give --channel"
        )
    return numbered[wanted]


def _choose(
    name: str,
    images: Folder,
    numbered: Mapping[int, Path],
    channel: int | None,
    default: int | None,
) -> Image | None:
    plain = images.files.get(name)
    if plain is not None and numbered:
        other = next(iter(numbered.values()))
        raise LayoutError(
            f"{images.path}: two images for the mask {name}, {plain.name} and {other.name}; "
            "remove or rename one"
        )
    if plain is not None:
        return Image(plain, channel)
    if numbered:
        return Image(choose_channel(numbered, channel, default, f"{images.path}: {name}"))
    return None


def _numbered(images: Folder, names: Mapping[str, str]) -> dict[str, dict[int, Path]]:
    """Name without channel number -> its channels; a mask's own name may end in a number, too."""
    found: dict[str, dict[int, Path]] = {}
    for stem, file in images.files.items():
        base, number = split_channel(stem)
        if number is not None and stem not in names:
            found.setdefault(base, {})[number] = file
    return found


def _by_role(images: Folder, masks: Folder) -> dict[str, str]:
    """Image name -> case id, where the names differ by a word such as `img` and `label` only."""
    names = {*images.files, *(split_channel(stem)[0] for stem in images.files)}
    if names & masks.files.keys() or not images.files or not masks.files:
        return {}
    bare = {without_role(split_channel(s)[0]): split_channel(s)[0] for s in images.files}
    of_masks = {without_role(case_id): case_id for case_id in masks.files}
    if len(of_masks) < len(masks.files) or not of_masks.keys() <= bare.keys():
        return {}
    if len(bare) < len({split_channel(stem)[0] for stem in images.files}):
        return {}
    log.info("%s: images and masks are paired without the words in their names", images.path)
    return {bare[key]: case_id for key, case_id in of_masks.items()}


def _refuse_mixed(images: Folder, channels: Sequence[Mapping[int, Path]]) -> None:
    """One channel for the whole data set: one case's CT must not meet another's second phase."""
    first = {number: file.name for numbered in channels for number, file in numbered.items()}
    if len(first) > 1:
        names = ", ".join(first[number] for number in sorted(first))
        raise LayoutError(
            f"{images.path}: images of several channels ({names}); give --channel, and every case "
            "an image of it"
        )


def _refuse_masks_alone(
    images: Folder, masks: Folder, known: set[str], default: int | None
) -> None:
    alone = sorted(masks.files.keys() - known)
    if alone:
        pattern = "ID.nii.gz" if default is None else f"ID_{default:04d}.nii.gz"
        raise LayoutError(
            f"{masks.path.parent}: no image for the masks {alone[:10]} (expected "
            f"{images.path.name}/{pattern}); add them, or give the masks alone (--masks "
            f"{masks.path.name}, without --images)"
        )


def _images_alone(
    images: Folder,
    masks: Folder,
    names: Mapping[str, str],
    numbered: Mapping[str, Mapping[int, Path]],
) -> dict[str, str]:
    """Images whose mask is there and cannot be read; without any mask they are refused."""
    left_out, alone = {}, []
    for stem in sorted(images.files):
        base, number = split_channel(stem)
        if stem in names or (number is not None and base in names and base in numbered):
            continue
        reason = masks.unread_of(stem) or masks.unread_of(base)
        if reason is None:
            alone.append(base)
        else:
            left_out[base] = reason
    if alone:
        raise LayoutError(
            f"{images.path.parent}: no mask for the images {alone[:10]} (expected "
            f"{masks.path.name}/ID.nii.gz); add or remove them"
        )
    return left_out
