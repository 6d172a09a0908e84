"""A copy of the checkout in which README's commands can be typed, and what shortens them.

Commands run as written, from the root, with relative paths. What a user has to fill in is put in
place (a data set, a patient's name), and options that shorten a job are added behind its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.paths import CHECKOUT
from engine.volumes.prepare_config import PrepareConfig
from models.autoencoder import Autoencoder
from models.denoiser.unet import Denoiser
from models.weights.folder import AUTOENCODER, DENOISER, read_manifest, save_weights, write_manifest
from tests.runs.fakes import PREPARE, make_data, make_weights

BLOCK = re.compile(r"^ *```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_QUICK = "--sampling.num-inference-steps 1 --gate.policy off --quality.policy off --num-pictured 1"
SHORTER = {
    "jobs/train_model.py": "--num-iterations 1 --denoiser base_channels 32 --checkpoint-minutes 60",
    "jobs/resample_abdomen.py": f"--cases phantom0000 phantom0001 {_QUICK}",
    "jobs/evaluate_run.py": "--metrics fidelity --max-volumes 1 --rivals painting",
    "jobs/resample_brain.py": f"--cases case0 {_QUICK}",
    "jobs/harmonize_sites.py": _QUICK,
    "jobs/edit_lesions.py": _QUICK,
    "benchmarks/bench_sampling.py": "--quick --steps 1 --num-slices 16",
    "benchmarks/bench_steps.py": "--solvers ddim --steps 1 --num-cases 1",
}
_DEMO = """
data: runs/prepared
cases: [case0]
sampling: {num_inference_steps: 1}
gate: {policy: "off"}
quality: {policy: "off"}
"""


@dataclass(frozen=True)
class Checkout:
    """A copy of the checkout with an environment, as after `git clone` and `make setup`."""

    root: Path
    env: dict[str, str]

    def type(self, block: str) -> str:
        """Run a block of commands; returns what it printed.

        Raises:
            AssertionError: a command failed, or showed a traceback.
        """
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=self.root,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-6000:]}"
        assert "Traceback" not in done.stdout, done.stdout[-6000:]
        return done.stdout


def shortened(block: str) -> str:
    """A block of README with the options of `SHORTER` behind each command that they belong to."""
    lines = []
    for line in block.replace("\\\n", " ").splitlines():
        command = re.sub(r"\s+#.*$", "", line)
        for script, options in SHORTER.items():
            if f"python {script} " in command:
                command += f" {options}"
        lines.append(command)
    return "\n".join(lines)


def copy_checkout(root: Path) -> Checkout:
    """Copy what git holds, and give it the environment that the tests run in."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (CHECKOUT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, root / name)  # with its mode: jobs are executable
    _link_environment(root / ".venv")
    stamp = subprocess.run(
        ["make", "-s", "--eval", "stamp: ; @echo $(STAMP)", "stamp"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    (root / stamp.stdout.strip()).touch()  # `make` installs nothing
    env = {
        key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "GEM3D_DATA")
    }
    return Checkout(root, {**env, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"})


def _link_environment(venv: Path) -> None:
    venv.mkdir()
    for part in Path(sys.prefix).iterdir():
        if not part.name.startswith(".installed"):
            (venv / part.name).symlink_to(part)


def make_brain(root: Path) -> None:
    """What README's section on brains starts from: prepared sites, and weights that fit them."""
    brain = PREPARE.model_copy(
        update={"modality": "mr", "contour": "brain", "class_names": ("necrosis", "edema")}
    )
    for name in ("a", "b", "brain"):
        make_data(root / "prepared" / name, num_cases=2, prepare=brain)
    _make_small_weights(root / "runs" / "weights", brain)


def make_small_demo(root: Path) -> None:
    """One small case instead of the eight phantoms of a demo without options."""
    make_data(root / "runs" / "prepared", num_cases=2)
    _make_small_weights(root / "weights" / "demo_abdomen", PREPARE)
    configured = root / "jobs" / "configs" / "resample_abdomen.yaml"
    configured.write_text(_DEMO, encoding="utf-8")


def _make_small_weights(folder: Path, prepare: PrepareConfig) -> None:
    """Random weights, which sample fast and badly."""
    shutil.rmtree(folder, ignore_errors=True)  # the demo's own, in the copy
    manifest = read_manifest(make_weights(folder, prepare))
    torch.manual_seed(0)
    denoiser = Denoiser(manifest.preset, manifest.num_classes)
    save_weights(folder / DENOISER, denoiser.state_dict())
    save_weights(folder / AUTOENCODER, Autoencoder(manifest.preset.autoencoder).state_dict())
    write_manifest(folder, manifest)  # with the digests of these files


def a_patient_of_some(plan: Path) -> str:
    """A case that some volumes of a run use, and not all."""
    rows = [json.loads(line) for line in plan.read_text().splitlines()]
    used = [{row["case_id"], row["informed_case"]} for row in rows]
    names: list[str] = sorted(set.union(*used))
    return next(name for name in names if not all(name in one for one in used))
