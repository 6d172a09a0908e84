"""README's commands run as written, from the root of a fresh checkout, with relative paths.

Each block of commands is typed as it stands (`readme_checkout.py` says what is filled in and what
shortens it). `make test` is this.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from engine.paths import CHECKOUT
from tests.readme_checkout import (
    BLOCK,
    SHORTER,
    Checkout,
    a_patient_of_some,
    copy_checkout,
    make_brain,
    make_small_demo,
    shortened,
)
from tests.volumes.heads.small_head import write_label_maps

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
BLOCKS = BLOCK.findall(README)
pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]


def block(text: str) -> str:
    """The one block that holds a text."""
    (found,) = [one for one in BLOCKS if text in one]
    return str(found)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return copy_checkout(tmp_path_factory.mktemp("readme") / "gem3d-engine")


@pytest.fixture
def joined(checkout: Checkout, local_ray: None) -> Checkout:
    """Jobs share the tests' Ray instead of starting one each."""
    address = ray.get_runtime_context().gcs_address
    return Checkout(checkout.root, {**checkout.env, "RAY_ADDRESS": address})


def test_your_own_data_from_nifti_to_nnunet(joined: Checkout) -> None:
    root = joined.root
    joined.type(
        ".venv/bin/python jobs/make_phantoms.py --out MY_DATASET --num-phantoms 3"
        " --phantom.num-slices 20"
    )
    for text in ("prepare_abdomen_ct.yaml", "train_model.py", "resample_abdomen.py --data"):
        joined.type(shortened(block(text)))
    assert (root / "runs" / "weights" / "denoiser.safetensors").is_file()
    patient = a_patient_of_some(root / "runs" / "mine" / "plan.jsonl")
    output = joined.type(shortened(block("verify_run.py")).replace("pat7", patient))
    assert "4 planned, 4 committed, 4 sound" in output
    joined.type(shortened(block("evaluate_run.py")))
    assert (root / "runs" / "mine" / "evaluation" / "metrics.json").is_file()
    joined.type(shortened(block("export_volumes.py")))
    images = list((root / "Dataset901_Mine" / "imagesTr").glob("*_0000.nii.gz"))
    assert 0 < len(images) < 4, "withdrawn volumes are not exported"
    assert len(list((root / "runs" / "exported" / "labels").iterdir())) == len(images)


def test_brains_sites_and_counterfactuals(joined: Checkout, tmp_path: Path) -> None:
    brains = copy_checkout(tmp_path / "gem3d-engine")
    make_brain(brains.root)
    typed = shortened(block("resample_brain.py --data")).replace("pat2", "case0")
    Checkout(brains.root, joined.env | {"PYTHONPATH": str(brains.root)}).type(typed)
    assert (brains.root / "runs" / "harmonize_sites" / "harmonization.html").is_file()
    assert len(list((brains.root / "runs" / "edit_lesions" / "commits").iterdir())) == 2


def test_heads(joined: Checkout) -> None:
    root = joined.root
    write_label_maps(root / "MAPS")
    short = "--data prepared/heads --splits test --replicas 1 --sampling.num-inference-steps 1"
    typed = block("make_phantoms.py --out heads").replace("--data prepared/heads", short)
    output = joined.type(typed)
    assert "1 of 1 volumes, 0 failed" in output


def test_benchmarks(checkout: Checkout) -> None:
    checkout.type(shortened(block("bench_sampling.py")))
    assert (checkout.root / "runs" / "steps" / "steps.csv").is_file()


def test_a_cluster_on_this_computer_and_the_demo(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "my clones" / "gem3d-engine")  # a space, too
    make_small_demo(checkout.root)
    output = checkout.type(block("cluster.local up"))
    assert output.count("1 of 1 volumes, 0 failed") == 2
    assert (checkout.root / "runs" / "own" / "report.html").is_file()
    output = checkout.type(block("make demo").replace("make test", ": make test"))
    assert "1 of 1 volumes, 0 failed" in output
    assert "Installing" not in output
    assert (checkout.root / "runs" / "demo" / "report.html").is_file()


TYPED = (
    "make_phantoms.py --out heads",
    "prepare_abdomen_ct.yaml",
    "train_model.py",
    "resample_abdomen.py --data",
    "verify_run.py",
    "evaluate_run.py",
    "export_volumes.py",
    "resample_brain.py --data",
    "bench_sampling.py",
    "cluster.local up",
    "make demo",
)


def test_every_block_is_typed_here() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    for one in BLOCKS:
        assert sum(text in one for text in TYPED) == 1, one
    for text in TYPED:
        assert source.count(text) > 1, text
        assert block(text)
    for script in SHORTER:
        assert script in README, f"{script} is shortened but not in README"
