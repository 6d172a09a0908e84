"""What a job is given, checked before any work: places, cases, and whether the model can do them.

Knows no plan rows and no Ray.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from engine.errors import ConfigError, RunError, WeightsError
from engine.log import get_logger
from engine.paths import path_to_read
from engine.runs.planning.rows import CaseFacts
from engine.sampling.config import SamplingConfig
from engine.storage.backends.find import storage_at
from engine.storage.places import Place
from engine.volumes.layouts import Split, check_case_id
from engine.volumes.prepared.manifest import MANIFEST_NAME, PreparedManifest
from engine.weights import read_manifest, weights_errors
from models.weights.manifest import POSITION, refuse_damage

log = get_logger(__name__)


def run_place(out: Place) -> Place:
    """Absolute run folder (see `engine.paths.path_to_write`), or an address as it is."""
    return storage_at(out).absolute(writes=True)


def find_folder(path: Path, key: str, kind: type[ConfigError | WeightsError] = ConfigError) -> Path:
    """A folder that a job reads (see `engine.paths.path_to_read`).

    Raises:
        ConfigError, WeightsError: there is none.
    """
    place = path_to_read(path)
    if place.is_dir():
        return place
    raise kind(f"{key}: {path} is not a folder; give an existing one with --{key}")


def refuse_inside(out: Place, sources: Iterable[Place]) -> None:
    """Keep results out of what they are made from.

    Raises:
        ConfigError: `out` is a source folder, or lies in one.
    """
    for source in sources:
        if storage_at(out).lies_in(source):
            raise ConfigError(
                f"out: {out} lies in {source}, which the job reads; choose another place with --out"
            )


def find_data(place: Place, key: str = "data") -> Place:
    """Prepared data as given: a folder (see `find_folder`), or an address.

    Raises:
        ConfigError: there is none.
    """
    path = storage_at(place).local
    if path is not None:
        return find_folder(path, key)
    if not (place / MANIFEST_NAME).is_file():
        raise ConfigError(f"{key}: {place} holds no {MANIFEST_NAME}; give prepared data")
    return place


def case_facts(manifest: PreparedManifest, where: Place) -> dict[str, CaseFacts]:
    """Facts of the cases of one prepared folder, by case id.

    Raises:
        LayoutError: a case id that cannot be a file name.
    """
    return {
        check_case_id(name, str(where)): CaseFacts(
            entry.size_zyx[0],
            entry.has_image,
            split=entry.split,
            sources=frozenset(entry.sources.values()),
        )
        for name, entry in manifest.cases.items()
    }


def pick_masks(
    facts: Mapping[str, CaseFacts], cases: tuple[str, ...] | None, splits: tuple[Split, ...]
) -> tuple[str, ...]:
    """The cases whose masks are wanted: those named, or all of these splits.

    Raises:
        RunError: a name is not in the data, or nothing is left.
    """
    if cases is None:
        return of_splits(facts, splits)
    names, masks = sorted(facts), tuple(dict.fromkeys(cases))
    unknown = [name for name in masks if name not in facts]
    if unknown or not masks:
        raise RunError(
            f"cases {unknown} are not in the prepared data; it holds {', '.join(names[:20])}"
        )
    return masks


def of_splits(facts: Mapping[str, CaseFacts], splits: tuple[Split, ...]) -> tuple[str, ...]:
    """Names of the cases of some splits, sorted; says how many others there are.

    Raises:
        RunError: there are none.
    """
    names = tuple(sorted(name for name, fact in facts.items() if fact.split in splits))
    others = sorted({fact.split for fact in facts.values()} - set(splits))
    left = len(facts) - len(names)
    if not facts:
        raise RunError("the prepared data holds no case; prepare the data set again")
    if not names:
        raise RunError(
            f"no case of split {' or '.join(splits)} in the prepared data, whose {left} cases are "
            f"{' and '.join(others)}; give --splits {' '.join(others)}, or name them with --cases"
        )
    if left:
        log.info(
            "%d cases of split %s are left out; name them, or give --splits %s",
            left,
            ", ".join(others),
            " ".join((*splits, *others)),
        )
    return names


def check_digests(weights: Path, files: Mapping[str, str]) -> None:
    """The weights' files must be those that their config.json names.

    Args:
        weights: the folder.
        files: sha256 of each file (`identity.hash_weights`).

    Raises:
        WeightsError: a file is damaged or exchanged; names it.
    """
    with weights_errors():
        refuse_damage(weights, files)


def check_tensors(weights: Path) -> None:
    """Names and shapes in the weights' files must be those of their architecture.

    Imports the networks; call it `in_own_process` where memory counts.

    Raises:
        WeightsError: they are not, or a file is missing or damaged.
    """
    from models.weights.folder import check_files

    with weights_errors():
        check_files(weights, read_manifest(weights))


def resolved_for(sampling: SamplingConfig, weights: Path) -> SamplingConfig:
    """Settings with every choice made for these weights: what a run is identified by.

    Raises:
        WeightsError, ConfigError: no weights, or ones that cannot do what is asked.
    """
    with weights_errors():
        return sampling.resolved(read_manifest(weights))


def check_position_model(weights: Path) -> None:
    """Weights must be able to draw informed slices.

    Raises:
        WeightsError: they have no position model.
    """
    model = read_manifest(weights)
    if model.preset.position is None or not (weights / POSITION).is_file():
        raise WeightsError(
            f"{weights}: informed generated needs a position model, and these weights have none; "
            "train one (train_model --stage position), or use informed own or cross"
        )


def check_fit(manifests: Mapping[Place, PreparedManifest], weights: Path) -> None:
    """Classes and pixels must be what the model takes.

    Raises:
        WeightsError: they are not; names both sides.
    """
    model = read_manifest(weights)
    size_yx = (model.preset.size_px, model.preset.size_px)
    for data, manifest in manifests.items():
        if manifest.config.modality != model.modality:
            raise WeightsError(
                f"{data}: prepared as {manifest.config.modality}, but the weights {weights} were "
                f"trained on {model.modality}; give weights of that modality with --weights"
            )
        spacing_mm = manifest.config.spacing_mm_yx
        if not math.isclose(spacing_mm, model.spacing_mm_yx, rel_tol=0.01):
            raise WeightsError(
                f"{data}: pixels of {spacing_mm:g} mm, but the weights {weights} were trained on "
                f"{model.spacing_mm_yx:g} mm; prepare with spacing_mm_yx {model.spacing_mm_yx:g}, "
                "or give other --weights"
            )
        if manifest.class_names != model.class_names or manifest.config.size_yx != size_yx:
            raise WeightsError(
                f"{data}: {', '.join(manifest.class_names)} on {manifest.config.size_yx} pixels "
                f"do not fit the weights {weights} ({', '.join(model.class_names)} on {size_yx}); "
                "prepare the data with the preset that the model was trained on, or give other "
                "--weights"
            )
