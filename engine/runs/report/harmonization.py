"""The harmonization report: before and after side by side, and how near each organ came.

Distances come from the commit records (quantiles of every class, real and generated); pictures from
prepared cases and committed volumes. Writes harmonization.json and harmonization.html.
"""

from __future__ import annotations

import base64
import importlib.resources
from collections.abc import Iterable, Mapping, Sequence

import jinja2

from engine.config import FrozenConfig
from engine.evaluation.harmonization import Quantiles, organ_distances
from engine.evaluation.nearness import (
    Nearness,
    Part,
    SiteMeans,
    is_redrawn,
    judge_nearness,
    mean_distance,
    organ_spreads,
)
from engine.evaluation.subject import class_quantiles
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import PlanRow, stored_at
from engine.runs.record.records import Commit
from engine.runs.record.status import active_rows
from engine.runs.report.harmonization_pictures import before_and_after
from engine.storage.files import put
from engine.storage.places import Place
from engine.volumes.prepared.store import read_prepared

_NOISE = 0.02  # of the intensity range: nearer than this is as near as sampling comes

Rows = Iterable[tuple[PlanRow, Commit]]


class VolumeDistance(FrozenConfig):
    """One volume against its reference, in the intensities' unit.

    Attributes:
        before: distance of each organ's distribution, of the real volume.
        after: of the harmonized one.
        shifted: how far its voxels had to go (`evaluation.harmonization.Change`).
        redrawn: how far they are from there: anatomy that was drawn anew.
        farther: see `evaluation.nearness.Nearness`.
        unproven: see there.
    """

    sample_id: str
    site: str
    reference: str
    before: dict[str, float]
    after: dict[str, float]
    shifted: float | None
    redrawn: float | None
    farther: tuple[Part, ...]
    unproven: bool


class OrganSpread(FrozenConfig):
    """Standard deviation between the sites' mean values of one organ, before and after."""

    before: float | None
    after: float | None

    @property
    def shrunk(self) -> float | None:
        """How many times smaller it became."""
        if self.before is None or not self.after:
            return None
        return self.before / self.after


class Harmonization(FrozenConfig):
    """Content of harmonization.json.

    Attributes:
        unit: of all intensities.
        references: the informed slices, `case:z`.
        spread: between sites, by reference and organ.
        volumes: every committed volume whose case has an image.
        own_error: of the method, by reference: how far from the reference scan its own mask comes
            out, sampled with its own slice (2 % of the intensity range when that was not made).
        damaged: volumes that are farther in anything; `VolumeDistance.farther` says in what.
        unproven: volumes whose organs came nearer by less than that error, so that the patient's
            true image at the reference site may be nearer to what went in.
    """

    unit: str
    references: tuple[str, ...]
    spread: dict[str, dict[str, OrganSpread]]
    volumes: tuple[VolumeDistance, ...]
    own_error: dict[str, float]
    damaged: tuple[str, ...]
    unproven: tuple[str, ...]


def write_harmonization(
    folder: RunFolder,
    data: Place,
    site_of: Mapping[str, str],
    num_pictured: int,
) -> Harmonization:
    """Compare and draw what is committed; pictures are spread over the sites."""
    pairs = ((row, ledger.existing(folder, row.sample_id)) for row in active_rows(folder))
    made = [(row, commit) for row, commit in pairs if commit is not None]
    result = compare(folder, data, made, site_of)
    put(folder.root / "harmonization.json", result.model_dump_json(indent=1) + "\n")
    shown = [
        {
            "sample_id": row.sample_id,
            "site": site_of[row.case_id],
            "png": base64.b64encode(before_and_after(folder, data, row, commit)).decode(),
        }
        for row, commit in _a_few(made, site_of, num_pictured)
    ]
    template = importlib.resources.files("engine.runs.report").joinpath("harmonization.html")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    farther = {
        f"{part}_farther": [v.sample_id for v in result.volumes if part in v.farther]
        for part in ("organs", "anatomy")
    }
    page = environment.from_string(template.read_text("utf-8")).render(
        result=result, shown=shown, **farther
    )
    put(folder.root / "harmonization.html", page)
    return result


def compare(
    folder: RunFolder,
    data: Place,
    made: Sequence[tuple[PlanRow, Commit]],
    site_of: Mapping[str, str],
) -> Harmonization:
    """Distances of every volume to its reference, and spreads between sites, from the records."""
    references = {_reference(row): (row.informed_source, row.case_id) for row, _ in made}
    targets, own_error = {}, {}
    for name, (source, _) in references.items():
        case = read_prepared(stored_at(folder.root, data, source))
        assert case.image is not None, "plan rows name cases with an image"
        targets[name] = class_quantiles(case.image, case.mask, case.class_names, case.intensity)
        own_error[name] = _NOISE * (case.intensity.high - case.intensity.low)
    tolerated = dict(own_error)
    for row, commit in made:
        if row.case_id == row.informed_case:
            name = _reference(row)
            own = organ_distances(commit.measures.levels("class_quantiles"), targets[name])
            own_error[name] = round(mean_distance(own), 2)
    volumes = []
    for row, commit in made:
        name = _reference(row)
        found = _compare_one(
            row, commit, targets[name], own_error[name], tolerated[name], site_of[row.case_id]
        )
        if found is not None:
            volumes.append(found)
    return Harmonization(
        unit=made[0][1].measures.unit if made else "",
        references=tuple(references),
        spread={name: _spreads(made, name, site_of) for name in references},
        volumes=tuple(volumes),
        own_error=own_error,
        damaged=tuple(v.sample_id for v in volumes if v.farther),
        unproven=tuple(v.sample_id for v in volumes if v.unproven),
    )


def _compare_one(
    row: PlanRow,
    commit: Commit,
    target: Quantiles,
    own_error: float,
    tolerated: float,
    site: str,
) -> VolumeDistance | None:
    """One volume against its reference's quantiles; None when its case has no image."""
    measures = commit.measures
    before = organ_distances(measures.levels("class_quantiles_real"), target)
    after = organ_distances(measures.levels("class_quantiles"), target)
    if not before:
        return None
    shifted, redrawn = measures.number("shifted"), measures.number("redrawn")
    verdict = Nearness((), unproven=False)
    if row.case_id != row.informed_case:  # a scan cannot come nearer to itself
        verdict = judge_nearness(
            before, after, own_error, tolerated, redrawn=is_redrawn(shifted, redrawn)
        )
    return VolumeDistance(
        sample_id=row.sample_id,
        site=site,
        reference=_reference(row),
        before=_rounded(before),
        after=_rounded({k: v for k, v in after.items() if k in before}),
        shifted=shifted,
        redrawn=redrawn,
        farther=verdict.farther,
        unproven=verdict.unproven,
    )


def _reference(row: PlanRow) -> str:
    return f"{row.informed_case}:{row.informed_z}"


def _spreads(made: Rows, reference: str, site_of: Mapping[str, str]) -> dict[str, OrganSpread]:
    volumes = (
        SiteMeans(
            site_of[row.case_id],
            commit.measures.by_class("class_means_real"),
            commit.measures.by_class("class_means"),
        )
        for row, commit in made
        if _reference(row) == reference
    )
    return {
        name: OrganSpread(before=_or_none(before), after=_or_none(after))
        for name, (before, after) in organ_spreads(volumes).items()
    }


def _a_few(
    made: Sequence[tuple[PlanRow, Commit]], site_of: Mapping[str, str], num_pictured: int
) -> list[tuple[PlanRow, Commit]]:
    """The first volumes of each site in turn."""
    by_site: dict[str, list[tuple[PlanRow, Commit]]] = {}
    for row, commit in made:
        by_site.setdefault(site_of[row.case_id], []).append((row, commit))
    each = num_pictured // max(1, len(by_site)) + 1
    return [pair for pairs in by_site.values() for pair in pairs[:each]][: max(1, num_pictured)]


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in values.items()}


def _or_none(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
