"""A generating job as an object: which cases there are, and which rows it wants of them.

`generate.py` does the rest, the same for all jobs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from engine.parallel.start.session import RaySession
from engine.runs.jobs.settings import GenerationConfig
from engine.runs.planning.rows import CaseFacts, FixedSlice
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import PlanRow
from engine.runs.report.summary import RunSummary
from engine.storage.places import Place
from engine.volumes.prepared.manifest import PreparedManifest


@dataclass(frozen=True)
class JobCases:
    """The cases of one job.

    Attributes:
        data: folder that the cases' sources are relative to.
        manifests: of the prepared data sets, by the folder that they lie in.
        facts: every case, by the name that plan rows use.
        masks: the cases whose masks are sampled.
        data_sha256: of what describes the data, for run.yaml.
        slices: informed slices that the user gave.
        remarks: what else a reader of the report should know of a case.
    """

    data: Place
    manifests: Mapping[Place, PreparedManifest]
    facts: Mapping[str, CaseFacts]
    masks: tuple[str, ...]
    data_sha256: dict[str, str]
    slices: tuple[FixedSlice, ...] = ()
    remarks: Mapping[str, str] = field(default_factory=dict)

    @property
    def manifest(self) -> PreparedManifest:
        """Of one data set; all of a job have the same settings."""
        return next(iter(self.manifests.values()))


class Job(ABC):
    """What one generating job wants to make.

    Attributes:
        config: its settings.
        name: for run.yaml.
        title: of the report.
        machine_settings: those that do not change the volumes, beside the usual ones.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    machine_settings: ClassVar[tuple[str, ...]] = ()
    config: GenerationConfig

    @abstractmethod
    def cases(self, folder: RunFolder, session: RaySession) -> JobCases:
        """Read the data, under the run's lock.

        Raises:
            EngineError: the data is not what the settings say.
        """

    @abstractmethod
    def rows(self, folder: RunFolder, cases: JobCases) -> Iterable[PlanRow]:
        """The plan's rows in their order; asked once, for a new run.

        Raises:
            EngineError: the cases cannot do what is asked.
        """

    def add_to_report(self, folder: RunFolder, cases: JobCases) -> None:
        """Write what only this job has to say; most have nothing."""
        return


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        summary: content of summary.json.
        report: the page to look at.
        worked: False when everything was there already.
    """

    summary: RunSummary
    report: Place
    worked: bool
