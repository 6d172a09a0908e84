"""The user's own informed slices: `CASE:Z` of the data, or a NIfTI file, on the model's grid.

A file has no mask, so its body (or brain) is found in it as in any case's image, and it is kept as
a prepared case in the run folder: what follows reads it like any other. Knows no plan's rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from engine.errors import ConfigError, StoreError
from engine.paths import path_to_read
from engine.runs.planning.rows import CaseFacts, FixedSlice, stored_name
from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import hash_file, read_identity
from engine.runs.record.patients import slice_files
from engine.runs.record.plan import in_run
from engine.runs.record.withdrawal import read_withdrawn
from engine.volumes.appearance.backgrounds import find_background
from engine.volumes.appearance.contours import find_contour
from engine.volumes.appearance.intensities import check_intensities, rescaled
from engine.volumes.geometry.grids import Orientation
from engine.volumes.layouts import check_case_id
from engine.volumes.layouts.naming import split_name
from engine.volumes.prepare_config import PrepareConfig
from engine.volumes.prepared.prepare import prepare_case
from engine.volumes.prepared.store import read_prepared, write_prepared
from engine.volumes.reading import read_image
from engine.volumes.volume import Array, Volume


def find_slices(
    wanted: Sequence[str],
    facts: Mapping[str, CaseFacts],
    folder: RunFolder,
    config: PrepareConfig,
) -> tuple[tuple[FixedSlice, ...], dict[str, str]]:
    """Read what the user wrote.

    Args:
        wanted: each `CASE`, `CASE:Z`, `FILE.nii.gz` or `FILE.nii.gz:Z`; Z counts the slices of the
            prepared grid from below, and is the middle one when left out.
        facts: cases by name.
        folder: the run; prepared files go to its folder `informed`.
        config: how the run's data was prepared.

    Returns:
        The slices, and sha256 of the files among them by name.

    Raises:
        ConfigError: no such case or slice.
        VolumeError: the file cannot be an informed slice of this data.
    """
    slices, digests = [], {}
    files: dict[str, Path] = {}
    gone = read_withdrawn(folder)
    owners = {digest: name for name, fact in facts.items() for digest in fact.sources}
    for text in wanted:
        name, z = _split(text)
        if split_name(name) is not None:
            path = path_to_read(Path(name))
            if files.setdefault(_stem(path), path) != path:
                raise ConfigError(
                    f"slices: {files[_stem(path)]} and {path} have one name; rename one of them"
                )
            if _stem(path) in gone:  # kept no more, and not needed: its volumes are withdrawn
                digests[path.name] = _recorded(path, folder)
                slices.append(FixedSlice(_stem(path), in_run(_source(_stem(path))), z or 0))
                continue
            found, depth = _from_file(path, folder, config)
            digests[path.name] = hash_file(path)
            of = owners.get(digests[path.name], "")
        else:
            found, of = _from_case(text, name, facts), ""
            depth = facts[name].num_slices
        slices.append(FixedSlice(*found, _chosen(text, z, depth), of))
    return tuple(slices), digests


def _from_case(text: str, name: str, facts: Mapping[str, CaseFacts]) -> tuple[str, str]:
    """Name and source of a case of the data."""
    if name not in facts:
        raise ConfigError(
            f"informed slice {text!r}: neither a case of the data nor an image file (.nii.gz); "
            f"the data holds {', '.join(sorted(facts)[:20])}"
        )
    if not facts[name].has_image:
        raise ConfigError(f"informed slice {text!r}: this case has no image; name another")
    return name, stored_name(facts, name)


def _chosen(text: str, z: int | None, depth: int) -> int:
    """The slice that was named, or the middle one."""
    if z is not None and not 0 <= z < depth:
        raise ConfigError(
            f"informed slice {text!r}: the case has slices 0 to {depth - 1}; give one of them"
        )
    return depth // 2 if z is None else z


def _split(text: str) -> tuple[str, int | None]:
    name, colon, number = text.rpartition(":")
    is_number = number.isascii() and number.isdigit() and len(number) < 10
    return (name, int(number)) if colon and is_number else (text, None)


def _stem(path: Path) -> str:
    parts = split_name(path.name)
    return path.name if parts is None else parts[0]


def _source(name: str) -> str:
    """Where the run folder keeps a slice file, relative to it."""
    return f"informed/{name}.zarr"


def _recorded(path: Path, folder: RunFolder) -> str:
    """sha256 of a withdrawn slice file, which may be gone, as run.yaml has it."""
    try:
        return slice_files(read_identity(folder.identity))[path.name]
    except (StoreError, KeyError):
        return hash_file(path)


def _from_file(path: Path, folder: RunFolder, config: PrepareConfig) -> tuple[tuple[str, str], int]:
    name = check_case_id(_stem(path), path)
    source = _source(name)
    case_path = folder.root / source
    raw = read_image(path)
    check_intensities(raw, config)
    # a refused start may have left one
    if not ((case_path / "zarr.json").is_file() and folder.identity.exists()):
        image = rescaled(raw, config)
        plain = config.model_copy(
            update={
                "label_map": {1: 1},
                "class_names": ("foreground",),
                "contour": "none",
                "other_labels": "refuse",
                "unlabelled_classes": (),
                "ignore_label": None,
                "intensities": "allow",  # looked at above
                "rescale": None,
            }
        )
        labels = Volume(_foreground(image, config), image.affine, image.source, image.header)
        write_prepared(case_path, prepare_case(image, labels, plain, name))
    return (name, in_run(source)), len(read_prepared(case_path).mask)


def _foreground(image: Volume, config: PrepareConfig) -> Array:
    """Body or brain of an image without a mask, as labels 0 and 1."""
    orientation = Orientation.closest(image.affine, image.size_zyx)
    canonical = orientation.to_canonical(image.array)
    affine = orientation.canonical_affine(image.affine)
    spacing = Volume(canonical, affine, image.source).spacing_mm_zyx
    kind: Literal["body", "brain"] = "brain" if config.contour == "brain" else "body"
    background = find_background(canonical)
    inside = find_contour(canonical, background, spacing, kind, config.modality, image.source)
    return orientation.to_native(inside.astype(np.int32))
