"""What a user types first, each with its likeliest mistakes: one line, what and what to do.

The table of `docs/first_contact.md`, in the same order. A mistake must also bind nobody: the
corrected command works in the same places.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest

import cluster.local as cluster_local
import jobs.export_volumes as export_job
import jobs.prepare_dataset as prepare_job
import jobs.resample_abdomen as resample_job
import jobs.train_model as train_job
import jobs.verify_run as verify_job
from engine.volumes.nifti import write_nifti
from engine.volumes.phantoms.cohort import phantom_id
from engine.volumes.phantoms.phantom import PhantomConfig, make_phantom
from engine.volumes.prepared.prepare import ABDOMEN_CT, prepare_case
from engine.volumes.prepared.store import write_prepared
from tests.hostile.room import Attack, Place, attack
from tests.runs.fakes import make_case

CONFIG = """prepare:
  size_yx: [{size}, {size}]
  label_map: {{1: 1, 2: 2}}
  class_names: [liver, {second}]
  contour: body
"""

# prepared cases of one patient: name, size, the second class
PREPARED = (("mine", 32, "spleen"), ("wide", 48, "spleen"), ("kidney", 32, "kidney"))


@pytest.fixture(scope="session")
def big_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared phantom of the demo preset's size."""
    folder = tmp_path_factory.mktemp("big") / "big"
    phantom = make_phantom(1, 0, PhantomConfig(num_slices=17))
    case = prepare_case(phantom.image, phantom.labels, ABDOMEN_CT, phantom_id(0))
    write_prepared(folder / f"{case.case_id}.zarr", case)
    return folder


@pytest.fixture
def home(place: Place) -> Place:
    """What lies around a new user: a raw data set, configurations, a file, a document."""
    image, labels = make_case(3)
    for root in ("raw", "nnUNet_raw/Dataset001_Mine"):
        for folder, name, volume in (("imagesTr", "a_0000", image), ("labelsTr", "a", labels)):
            (place.root / root / folder).mkdir(parents=True)
            write_nifti(place.root / root / folder / f"{name}.nii.gz", volume)
    place.file("file", "x")
    place.file("documents/thesis.docx", "x")
    for name, size, second in PREPARED:
        place.file(f"{name}.yaml", CONFIG.format(size=size, second=second))
    return place


def make_named(home: Place, args: list[str], big_data: Path) -> None:
    """The prepared cases and weights that a command names."""
    for name, _, _ in PREPARED:
        if name in args:
            made = ["--config", f"{name}.yaml", "--root", "raw", "--out", name]
            assert prepare_job.main(made) == 0
    if "big" in args:
        shutil.copytree(big_data, home.root / "big")
    assert "data" not in args or home.data.is_dir()
    assert "weights" not in args or home.weights.is_dir()


def typed(line: str, expected: str, code: int = 2) -> Attack:
    return Attack(lambda _: line.split(), expected, code)


PREPARE = {
    "the folder around the data sets": typed(
        "--root nnUNet_raw --out x", "it holds the data sets Dataset001_Mine: give one of them"
    ),
    "a folder of the data set": typed(
        "--root raw/imagesTr --out x", "this is a folder of one: give .*/raw$"
    ),
    "no such folder": typed("--root rwa --out x", "rwa: no such folder; give the data set's"),
    "a file": typed("--root file --out x", "file: a file, no folder; give the data set's"),
    "prepared cases": typed("--root wide --out x", "prepared cases: give them .* with --data"),
    "no --out": typed("--root raw", "--root .* and --out .* are both needed"),
    "no --root": typed("--out x", "--root .* and --out .* are both needed"),
    "no such configuration": typed(
        "--config nope.yaml --root raw --out x", "nope.yaml: cannot read .*; give an existing YAML"
    ),
    "no such label map": typed(
        "--root raw --out x --labels amso", "no label map 'amso'; there are"
    ),
    "output of other settings": typed(
        "--config mine.yaml --root raw --out wide",
        r"wide: holds cases prepared with other settings \(size_yx\); choose another folder",
    ),
    "output into the data set": typed(
        "--config mine.yaml --root raw --out raw",
        "is a folder of the data set itself.*; choose another",
    ),
    "output is a file": typed(
        "--config mine.yaml --root raw --out file", "file: cannot be written .*; choose another"
    ),
    "output cannot be made": typed(
        "--config mine.yaml --root raw --out file/x", "file/x: cannot be written .*; choose another"
    ),
}
TRAIN = {
    "raw data": typed(
        "--stage autoencoder --data raw", "raw: no prepared case .*; run prepare_dataset"
    ),
    "no such data": typed(
        "--stage autoencoder --data gone", "gone: no prepared case .* with --data"
    ),
    "no --data": typed("--stage autoencoder", "runs/prepared: no prepared case .* with --data"),
    "prepared for another size": typed(
        "--stage autoencoder --data wide --weights w",
        r"slices of \(48, 48\), but preset demo takes 128 px squares; prepare with size_yx",
    ),
    "a stage before its first": typed(
        "--stage slice --data big --weights w",
        "autoencoder.safetensors: not found; run the earlier stage first",
    ),
    "weights of another task": typed(
        "--stage slice --data big --weights weights",
        "weights: made for preset demo .*; give the same, or another weights folder",
    ),
    "weights are a file": typed(
        "--stage autoencoder --data big --weights file --work out",
        "file: cannot be written .*; choose another folder with --weights",
    ),
    "weights into a file": typed(
        "--stage autoencoder --data big --weights file/x --work out",
        "file/x: cannot be written .*; choose another folder with --weights",
    ),
}
GENERATE = "--informed own --weights weights --out out"
RESAMPLE = {
    "raw data": typed(f"--data raw {GENERATE}", "raw/dataset.json: missing; prepare the data set"),
    "no such data": typed(f"--data gone {GENERATE}", "gone is not a folder; .* with --data"),
    "no such weights": typed("--data data --weights gone", "gone is not a folder; .* --weights"),
    "no weights in it": typed(
        "--data data --weights wide --out out", "config.json: not found; .* made by train_model"
    ),
    "weights of another task": typed(
        f"--data kidney {GENERATE}", "kidney, body .* do not fit the weights .*; prepare the data"
    ),
    "prepared for another size": typed(
        f"--data wide {GENERATE}", r"\(48, 48\) pixels do not fit the weights .*; prepare the data"
    ),
    "cross with a single case": typed(
        "--data mine --weights weights --out out", "no other case has an image .*; use informed own"
    ),
    "fixed without slices": typed(
        "--data data --informed fixed --weights weights", "give both or neither"
    ),
    "output is a file": typed(
        "--data data --weights weights --out file",
        "file: cannot make a run folder here .*; choose another",
    ),
    "output into the data": typed(
        "--data data --weights weights --out data", "which the job reads; choose another place"
    ),
    "output of other settings": typed(
        "--data data --informed own --weights weights --out out --seed 9",
        "out: this run was begun otherwise: settings.seed was 0, is now 9. Go back",
    ),
}
NO_RUN = {
    "no such folder": typed("--run gone", "gone: not a run folder .*; give one that a job made"),
    "prepared cases": typed("--run data", "data: not a run folder .*; give one that a job made"),
    "the volumes of a run": typed("--run out/volumes", "it lies in one: give .*/out$"),
    "a file": typed("--run file", "file: not a run folder .*; give one that a job made"),
}
VERIFY = {
    **NO_RUN,
    "no --run": typed("", "no run folder; give --run FOLDER"),
    "a case that is none": typed(
        "--run out --withdraw pat7", "pat7: no volume of .*; it has case0"
    ),
}
EXPORT = {
    **NO_RUN,
    "no --run": typed("", "no run to export; give --run FOLDER"),
    "someone's folder": typed(
        "--run out --out documents", "files that no export wrote; choose an empty"
    ),
    "onto the run": typed("--run out --out out", "files that no export wrote; choose an empty"),
    "output is a file": typed("--run out --out file", "file: cannot be written .*; choose another"),
    "output cannot be made": typed(
        "--run out --out file/x", "file/x: cannot be written .*; choose another"
    ),
}
CLUSTER = {
    "no job": typed("run", "no job given; write `run -- jobs/NAME.py ARGS`"),
    "no such job": typed(
        "run -- jobs/nope.py", "jobs/nope.py: no such job; write .* in the checkout's folder"
    ),
}
COMMANDS: dict[str, tuple[ModuleType, dict[str, Attack]]] = {
    "prepare_dataset": (prepare_job, PREPARE),
    "train_model": (train_job, TRAIN),
    "resample_abdomen": (resample_job, RESAMPLE),
    "verify_run": (verify_job, VERIFY),
    "export_volumes": (export_job, EXPORT),
    "cluster.local": (cluster_local, CLUSTER),
}
NEED_A_RUN = (
    "output of other settings", "the volumes of a run", "a case that is none",
    "someone's folder", "onto the run", "output is a file", "output cannot be made",
)  # fmt: skip


def make_run(home: Place) -> None:
    """A finished run of three volumes in `out`."""
    assert home.data.is_dir()
    assert home.weights.is_dir()
    args = "--data data --informed own --weights weights --out out --num-pictured 0"
    assert resample_job.main(args.split()) == 0


@pytest.mark.parametrize(
    ("command", "mistake"),
    [(command, mistake) for command, (_, table) in COMMANDS.items() for mistake in table],
)
def test_first_mistakes(
    command: str, mistake: str, home: Place, big_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, table = COMMANDS[command]
    if mistake in NEED_A_RUN and command not in ("prepare_dataset", "train_model"):
        make_run(home)
    make_named(home, table[mistake].args(home), big_data)
    attack(module.main, table[mistake], home, capsys)


@pytest.mark.parametrize("mistake", ["weights of another task", "cross with a single case"])
def test_a_refused_start_does_not_bind_its_folder(
    mistake: str, home: Place, big_data: Path
) -> None:
    args = RESAMPLE[mistake].args(home)
    make_named(home, args, big_data)
    assert resample_job.main(args) == 2
    make_run(home)
