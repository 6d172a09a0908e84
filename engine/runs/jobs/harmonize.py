"""The harmonization job: every case of several sites sampled with the same informed slice.

The paper's de-enhancement (Fig. 4): masks keep each patient's anatomy, one slice gives all of them
one appearance. Sites come as prepared folders or as a table; the slice is the user's or the
cohort's medoid. Several slices give several versions. Knows no command line.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from engine.errors import ConfigError, LayoutError
from engine.evaluation.fidelity import class_means
from engine.evaluation.harmonization import medoid
from engine.log import get_logger
from engine.parallel.own_process import in_own_process
from engine.parallel.start.session import RaySession
from engine.paths import READ, WRITTEN
from engine.runs.jobs.generate import generate
from engine.runs.jobs.job import Job, JobCases, Outcome
from engine.runs.jobs.settings import GenerationConfig
from engine.runs.making.worker import LoadSampler, load_sampler
from engine.runs.planning.data_digests import cases_digest, data_digest
from engine.runs.planning.gate import gate_of
from engine.runs.planning.informed_slices import find_slices
from engine.runs.planning.inputs import (
    case_facts,
    find_data,
    find_folder,
    of_splits,
    refuse_inside,
    run_place,
)
from engine.runs.planning.rows import (
    CaseFacts,
    Cases,
    FixedSlice,
    PlanSettings,
    plan_rows,
    stored_name,
)
from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import sha256_of
from engine.runs.record.plan import PlanRow, stored_at
from engine.runs.report.harmonization import write_harmonization
from engine.storage.places import Place, PlaceField
from engine.volumes.layouts import Split, check_case_id
from engine.volumes.prepared.manifest import PreparedManifest, read_manifest
from engine.volumes.prepared.store import read_prepared
from engine.volumes.volume import PreparedCase

log = get_logger(__name__)

_BETWEEN = "--"  # of site and case in a name


class HarmonizeConfig(GenerationConfig):
    """Settings of one harmonization run.

    Attributes:
        sites: prepared folders, each `NAME=FOLDER`; or
        data: one prepared folder, and
        table: a CSV with the columns case and site for it.
        slices: the informed slices, `CASE:Z` (a case of sites is `SITE--CASE`) or
            `FILE.nii.gz:Z`; each gives a version. None given takes the medoid's.
        reference_site: the medoid is looked for among this site's cases; None is all.
        replicas: volumes a case and slice.
    """

    out: Annotated[PlaceField, WRITTEN] = Path("runs/harmonize_sites")
    sites: tuple[str, ...] = ()
    data: Annotated[PlaceField, READ] | None = None
    table: Annotated[Path, READ] | None = None
    slices: tuple[str, ...] = ()
    reference_site: str | None = None
    replicas: int = Field(1, ge=1, le=1000)

    @model_validator(mode="after")
    def _consistent(self) -> HarmonizeConfig:
        if self.sites and (self.data is not None or self.table is not None):
            raise ValueError("give either sites (NAME=FOLDER ...), or data and table")
        if (self.data is None) != (self.table is None):
            raise ValueError("data and table belong together")
        if self.slices and self.reference_site is not None:
            raise ValueError("reference_site chooses the slice, and so do slices: give one of them")
        return self


@dataclass(frozen=True)
class Sites:
    """The cases of all sites under one roof.

    Attributes:
        data: the folder that their sources are relative to.
        manifests: by folder.
        facts: by the name used in plans.
        site_of: name -> site.
        digests: what describes the data, for run.yaml; of several folders, a site each.
    """

    data: Place
    manifests: Mapping[Place, PreparedManifest]
    facts: Mapping[str, CaseFacts]
    site_of: Mapping[str, str]
    digests: Mapping[str, str]


def harmonize(config: HarmonizeConfig, load: LoadSampler = load_sampler) -> Outcome:
    """Run the job, or the rest of it; see `generate`.

    Raises:
        EngineError: see `generate`.
    """
    sites = read_sites(config)
    refuse_inside(run_place(config.out), sites.manifests)
    return generate(HarmonizeJob(config, sites), load)


def read_sites(config: HarmonizeConfig) -> Sites:
    """Find every site's cases.

    Raises:
        ConfigError: a folder or the table is not there, or names what is not.
    """
    if config.data is not None and config.table is not None:
        data = find_data(config.data)
        manifest = read_manifest(data)
        facts = case_facts(manifest, data)
        site_of = _read_table(config.table, facts)
        return Sites(data, {data: manifest}, facts, site_of, data_digest(manifest))
    if not config.sites:
        raise ConfigError("no sites; give --sites NAME=FOLDER NAME=FOLDER, or --data and --table")
    folders: dict[str, Path] = {}
    for text in config.sites:
        name, equals, path = text.partition("=")
        if not equals or name in folders:
            raise ConfigError(
                f"sites: {text!r} is not NAME=FOLDER with a name of its own; write A=prepared/a"
            )
        folder = find_folder(Path(path), "sites").resolve()
        if folder in folders.values():
            raise ConfigError(f"sites: {text!r} is the folder of another site; give each its own")
        folders[_site_name(name, "sites")] = folder
    if len(folders) < 2:
        raise ConfigError("sites: one site has nothing to be harmonized with; give two or more")
    return _under_one_roof(folders, config.splits)


def _under_one_roof(folders: Mapping[str, Path], splits: tuple[Split, ...]) -> Sites:
    roof = Path(os.path.commonpath([str(path) for path in folders.values()]))
    manifests: dict[Place, PreparedManifest] = {p: read_manifest(p) for p in folders.values()}
    configs = [manifest.config for manifest in manifests.values()]
    if any(config != configs[0] for config in configs):
        raise ConfigError(
            "sites: their data was prepared with different settings; prepare all with the same"
        )
    facts, site_of = {}, {}
    for site, path in folders.items():
        for case_id, fact in case_facts(manifests[path], path).items():
            name = f"{site}{_BETWEEN}{case_id}"
            source = (path / f"{case_id}.zarr").relative_to(roof).as_posix()
            facts[name] = replace(fact, source=source, patient=case_id)
            site_of[name] = site
    site_of = {name: site_of[name] for name in of_splits(facts, splits)}
    digests = {f"site {site}": cases_digest(manifests[path]) for site, path in folders.items()}
    return Sites(roof, manifests, facts, site_of, digests)


def _site_name(name: str, where: Path | str) -> str:
    """A site's name, which becomes part of file names: letters, digits, `_`, `-`, `.`.

    The first `--` of `SITE--CASE` ends the site, so that names of two sites never meet.

    Raises:
        ConfigError: other characters, or what stands between site and case.
    """
    try:
        if _BETWEEN not in name and not name.endswith("-"):
            return check_case_id(name, where)
    except LayoutError:
        pass
    raise ConfigError(
        f"{where}: site name {name!r} is refused; give it letters, digits, '_', '.' and single "
        "'-', not starting with a dot, not ending with '-'"
    )


def _read_table(path: Path, facts: Mapping[str, CaseFacts]) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets write a BOM
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot read the table ({error}); give a CSV file") from None
    if not rows or not {"case", "site"} <= rows[0].keys():
        raise ConfigError(
            f"{path}: no table with the columns case and site in its first line; separate columns "
            "by commas"
        )
    site_of: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        case_id, site = row["case"] or "", row["site"] or ""
        if case_id not in facts:
            raise ConfigError(
                f"{path}:{number}: case {case_id!r} is not in the prepared data; it holds "
                f"{', '.join(sorted(facts)[:20])}"
            )
        if case_id in site_of or not site:
            raise ConfigError(
                f"{path}:{number}: case {case_id!r} has no site, or two lines; give it one"
            )
        site_of[case_id] = _site_name(site, f"{path}:{number}")
    if len(set(site_of.values())) < 2:
        raise ConfigError(f"{path}: names one site only; harmonizing needs two or more")
    if len(site_of) < len(facts):
        log.warning("%s: %d cases of the data are left out", path, len(facts) - len(site_of))
    return site_of


@dataclass(frozen=True)
class HarmonizeJob(Job):
    """See `HarmonizeConfig`."""

    name = "harmonize"
    title = "Harmonized volumes"
    machine_settings = ("sites", "table")
    config: HarmonizeConfig
    sites: Sites

    def cases(self, folder: RunFolder, session: RaySession) -> JobCases:
        """The cases of all sites."""
        sites = self.sites
        some = next(iter(sites.manifests.values()))
        slices, digests = find_slices(self.config.slices, sites.facts, folder, some.config)
        return JobCases(
            data=sites.data,
            manifests=sites.manifests,
            facts=sites.facts,
            masks=tuple(sorted(sites.site_of)),
            data_sha256={
                **sites.digests,
                "sites": sha256_of(dict(sites.site_of)),
                **{f"slice {name}": d for name, d in digests.items()},
            },
            slices=slices,
        )

    def rows(self, folder: RunFolder, cases: JobCases) -> Iterator[PlanRow]:
        """Every case with every slice; the medoid's where none was given."""
        config = self.config
        fixed = cases.slices or (
            find_medoid(folder, self.sites, config.reference_site, config.informed_splits),
        )
        settings = PlanSettings(("fixed",), config.replicas, config.seed, fixed=fixed)
        lenders = Cases.of(cases.facts, settings)
        gate = gate_of(config.gate, folder.root, cases.data)
        for row in plan_rows(cases.facts, cases.masks, settings):
            yield gate.judged(row, lenders)

    def add_to_report(self, folder: RunFolder, cases: JobCases) -> None:
        """The comparison of the sites, before and after."""
        site_of, num_pictured = self.sites.site_of, self.config.num_pictured
        in_own_process(write_harmonization, folder, cases.data, site_of, num_pictured)


def find_medoid(
    folder: RunFolder,
    sites: Sites,
    reference_site: str | None,
    splits: tuple[Split, ...] = ("train",),
) -> FixedSlice:
    """The slice of the case that all others are nearest to, organ by organ.

    Of its slices the one with most classes, and of these the middle one: the model learns from it
    how bright each class is, and every volume starts at its height.

    Raises:
        ConfigError: no case with an image (of that site and of these splits).
    """
    features: dict[str, dict[str, float]] = {}
    for name, site in sorted(sites.site_of.items()):
        facts = sites.facts[name]
        if facts.has_image and facts.split in splits and reference_site in (None, site):
            case = _read(folder, sites, name)
            assert case.image is not None
            means = class_means(case.image, case.mask, case.class_names)
            features[name] = {n: mean for n, mean in means.items() if n != case.contour}
    if not features:
        among = f"site {reference_site}" if reference_site else "the sites"
        known = ", ".join(sorted(set(sites.site_of.values())))
        raise ConfigError(
            f"reference: no case with an image in {among}; the sites are {known} (cases of split "
            f"{' or '.join(splits)} are looked at: see --informed-splits)"
        )
    name = medoid(features)
    z = richest_slice(_read(folder, sites, name))
    log.info("reference: slice %d of %s, the medoid of %d cases", z, name, len(features))
    return FixedSlice(name, stored_name(sites.facts, name), z)


def richest_slice(case: PreparedCase) -> int:
    """The slice with most classes; of several the one nearest to the middle."""
    counts = np.array([len(np.unique(plane)) for plane in case.mask])
    best = np.flatnonzero(counts == counts.max())
    return int(best[np.argmin(np.abs(best - len(counts) // 2))])


def _read(folder: RunFolder, sites: Sites, name: str) -> PreparedCase:
    return read_prepared(stored_at(folder.root, sites.data, stored_name(sites.facts, name)))
