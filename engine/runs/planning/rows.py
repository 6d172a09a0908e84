"""Which rows a plan has: masks x informed sources x augmentations x replicas, by hash of the seed.

A pure function of the cases, the settings and the seed: the same question gives the same rows in
the same order, made one by one. Knows no models, no voxels, no files and no Ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import permutations

from engine.errors import SamplingError
from engine.runs.record.plan import MAX_SAMPLE_ID, POSITION_MODEL, InformedSource, PlanRow
from engine.seeds import noise_seed
from engine.volumes.layouts import Split


@dataclass(frozen=True)
class CaseFacts:
    """What a plan needs to know of a prepared case.

    Attributes:
        num_slices: of its prepared grid.
        has_image: whether slices can be taken from it.
        source: where it is stored, see `stored_at`; empty is `{case_id}.zarr`.
        patient: whose case it is; empty is a patient of its own.
        split: "train" or "test", as its data set said.
        sources: sha256 of the files that it was prepared from.
    """

    num_slices: int
    has_image: bool
    source: str = ""
    patient: str = ""
    split: Split = "train"
    sources: frozenset[str] = frozenset()


def stored_name(facts: Mapping[str, CaseFacts], name: str) -> str:
    """Where a case is stored, see `stored_at`."""
    return facts[name].source or f"{name}.zarr"


@dataclass(frozen=True)
class FixedSlice:
    """One slice for all: of a case, or of a prepared file.

    Attributes:
        name: of the case or file.
        source: where it is stored, as in `CaseFacts.source`.
        z: slice of it.
        of: case of the data that the file is the image of, by its bytes; empty is none.
    """

    name: str
    source: str
    z: int
    of: str = ""


@dataclass(frozen=True)
class PlanSettings:
    """What a plan multiplies.

    Attributes:
        informed: sources of the informed slice.
        replicas: volumes a mask, source and augmentation.
        seed: of the run.
        augmentations: augmented masks a mask; 0 leaves masks as they are.
        same_patient: "cross" may draw another case of the same patient.
        fixed: slices of source "fixed", each of which gives a version of every mask.
        informed_splits: "cross" draws from cases of these.
    """

    informed: tuple[InformedSource, ...] = ("cross",)
    replicas: int = 1
    seed: int = 0
    augmentations: int = 0
    same_patient: bool = False
    fixed: tuple[FixedSlice, ...] = ()
    informed_splits: tuple[Split, ...] = ("train",)


@dataclass(frozen=True)
class Cases:
    """All cases of a plan, arranged so that a draw costs little however many there are."""

    facts: Mapping[str, CaseFacts]
    same_patient: bool = False
    informed_splits: tuple[Split, ...] = ("train",)
    _own: dict[str, list[int]] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, facts: Mapping[str, CaseFacts], settings: PlanSettings) -> Cases:
        """The cases as a plan of these settings draws from them."""
        return cls(facts, settings.same_patient, settings.informed_splits)

    @cached_property
    def with_image(self) -> list[str]:
        """Names of the cases that slices can be taken from, sorted."""
        return sorted(
            name
            for name, facts in self.facts.items()
            if facts.has_image and facts.split in self.informed_splits
        )

    def source(self, name: str) -> str:
        """Where a case is stored."""
        return stored_name(self.facts, name)

    def draw_other(self, case_id: str, seed: int, sample_id: str, draw: int) -> str:
        """Another patient's case (another case, with `same_patient`), by hash.

        Raises:
            SamplingError: there is none.
        """
        if not self._own:
            self._own.update(self._by_patient())
        own = self._own.get(self._patient(case_id), [])
        num_others = len(self.with_image) - len(own)
        if num_others < 1:
            raise SamplingError(
                f"{case_id}: no other case has an image (of another patient, in split "
                f"{' or '.join(self.informed_splits)}); use informed own, or name other "
                "informed_splits"
            )
        index = noise_seed(seed, sample_id, draw, "informed case") % num_others
        for taken in own:  # sorted: each one at or before the index pushes it on by one
            index += taken <= index
        return self.with_image[index]

    def redrawn(self, row: PlanRow, draw: int) -> PlanRow:
        """A row with the informed slice of draw 1, 2, ...; only "cross" draws.

        Raises:
            SamplingError: see `choose_slice`.
        """
        if row.informed != "cross":
            return row
        other = choose_slice(self, row.case_id, "cross", row.seed, row.sample_id, draw)
        update = {"informed_case": other.name, "informed_source": other.source}
        return row.model_copy(update={**update, "informed_z": other.z})

    def _patient(self, case_id: str) -> str:
        return case_id if self.same_patient else self.facts[case_id].patient or case_id

    def _by_patient(self) -> dict[str, list[int]]:
        own: dict[str, list[int]] = {}
        for index, name in enumerate(self.with_image):
            own.setdefault(self._patient(name), []).append(index)
        return own or {"": []}


def plan_rows(
    cases: Mapping[str, CaseFacts],
    masks: Iterable[str],
    settings: PlanSettings,
) -> Iterator[PlanRow]:
    """Decide every volume of a run: masks x informed sources x augmentations x replicas.

    Args:
        cases: all prepared cases; informed slices of "cross" come from those of
            `settings.informed_splits`.
        masks: the cases whose masks are used.
        settings: what is multiplied.

    Raises:
        SamplingError: an informed slice does not exist, or two would give volumes one name.
    """
    arranged = Cases.of(cases, settings)
    masks = tuple(masks)
    labels = _labels(masks, settings)
    for case_id in masks:
        for source, fixed in _sources(settings):
            for augmentation in range(max(1, settings.augmentations)):
                for replica in range(settings.replicas):
                    name = _name(case_id, source, fixed, augmentation, replica, settings, labels)
                    if len(name) > MAX_SAMPLE_ID:
                        raise SamplingError(
                            f"{name[:60]}...: a name of {len(name)} characters is too long for a "
                            f"file; shorten case ids and slice files ({MAX_SAMPLE_ID} at most)"
                        )
                    yield _row(arranged, case_id, replica, name, source, fixed, settings.seed)


def build_plan(
    cases: Mapping[str, CaseFacts],
    masks: Sequence[str],
    informed: InformedSource,
    replicas: int,
    seed: int,
) -> tuple[PlanRow, ...]:
    """`plan_rows` of one informed source, as a whole; see there."""
    return tuple(plan_rows(cases, masks, PlanSettings((informed,), replicas, seed)))


def _sources(settings: PlanSettings) -> Iterator[tuple[InformedSource, FixedSlice | None]]:
    for source in settings.informed:
        if source != "fixed":
            yield source, None
            continue
        if not settings.fixed:
            raise SamplingError("informed fixed needs a slice: give --slice CASE:Z or a NIfTI file")
        for fixed in settings.fixed:
            yield source, fixed


def _name(
    case_id: str,
    source: InformedSource,
    fixed: FixedSlice | None,
    augmentation: int,
    replica: int,
    settings: PlanSettings,
    labels: Mapping[FixedSlice, str],
) -> str:
    """Says only what differs within the run, so that a plain run has plain names."""
    parts = [case_id]
    if len(settings.informed) > 1:
        parts.append(source)
    if fixed is not None and len(settings.fixed) > 1:
        parts.append(labels[fixed])
    if settings.augmentations:
        parts.append(f"a{augmentation:02d}")
    return "-".join([*parts, f"r{replica:02d}"])


def _labels(masks: Sequence[str], settings: PlanSettings) -> dict[FixedSlice, str]:
    """Each slice's part of a name, so that no two volumes have one name.

    Case ids and slices may hold hyphens, and a hyphen stands between them: `x` with `y-z` would be
    named like `x-y` with `z`. Where that is so, the slices' hyphens become underscores.

    Raises:
        SamplingError: two slices cannot be told apart.
    """
    labels = {fixed: f"{fixed.name}.{fixed.z}" for fixed in settings.fixed}
    if _meet(masks, settings, list(labels.values())):
        labels = {fixed: label.replace("-", "_") for fixed, label in labels.items()}
    first: dict[str, FixedSlice] = {}
    for fixed in settings.fixed:
        other = first.setdefault(labels[fixed], fixed)
        if other is not fixed:
            raise SamplingError(
                f"slices {other.name}:{other.z} ({other.source}) and {fixed.name}:{fixed.z} "
                f"({fixed.source}) would give their volumes one name; leave one out, or rename it"
            )
    return labels


def _meet(masks: Sequence[str], settings: PlanSettings, labels: Sequence[str]) -> bool:
    """Whether a case with one slice is named like another case with another slice."""
    known = set(masks)
    before = "fixed-" if len(settings.informed) > 1 else ""
    for one, other in permutations(labels, 2):
        shared = f"-{before}{other}"
        if f"{before}{one}".endswith(shared):
            middle = f"{before}{one}".removesuffix(shared)
            if any(f"{case_id}-{middle}" in known for case_id in known):
                return True
    return False


def _row(
    cases: Cases,
    case_id: str,
    replica: int,
    sample_id: str,
    source: InformedSource,
    fixed: FixedSlice | None,
    seed: int,
) -> PlanRow:
    chosen = fixed or choose_slice(cases, case_id, source, seed, sample_id, 0)
    return PlanRow(
        sample_id=sample_id,
        case_id=case_id,
        replica=replica,
        num_slices=cases.facts[case_id].num_slices,
        mask_source=cases.source(case_id),
        informed=source,
        informed_case=chosen.name,
        informed_source=chosen.source,
        informed_z=chosen.z,
        informed_of=chosen.of,
        split=cases.facts[case_id].split,
        seed=seed,
    )


def choose_slice(
    cases: Cases, case_id: str, source: InformedSource, seed: int, sample_id: str, draw: int
) -> FixedSlice:
    """The informed slice of one sample: the middle one of a case, or the one at its height.

    Args:
        cases: to draw from.
        case_id: whose mask is sampled.
        source: "own", "cross" or "generated".
        seed: of the run.
        sample_id: of the sample.
        draw: 0 for the first choice, 1, 2, ... for other ones of "cross".

    Raises:
        SamplingError: no image to take a slice from.
    """
    num_slices = cases.facts[case_id].num_slices
    if source == "generated":  # where "own" would take it
        return FixedSlice(POSITION_MODEL, "", num_slices // 2)
    if source == "own":
        if not cases.facts[case_id].has_image:
            raise SamplingError(f"{case_id}: has no image of its own; use informed cross")
        return FixedSlice(case_id, cases.source(case_id), num_slices // 2)
    name = cases.draw_other(case_id, seed, sample_id, draw)
    height = (num_slices // 2) / max(num_slices - 1, 1)
    return FixedSlice(name, cases.source(name), round(height * (cases.facts[name].num_slices - 1)))
