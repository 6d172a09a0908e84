"""Impossible phantoms, and folders that are not theirs, given to jobs/make_phantoms.py."""

from __future__ import annotations

import pytest

import jobs.make_phantoms as job
from tests.hostile import spoiled
from tests.hostile.room import Attack, Place, attack


def usual(expected: str, *more: str) -> Attack:
    return Attack(lambda p: ["--out", str(p.out), "--num-phantoms", "1", *more], expected)


def _foreign(place: Place) -> list[str]:
    root = spoiled.dataset(place.root / "raw")
    place.file("raw/dataset.json", '{"labels": {"background": 0, "tumour": 1}}')
    return ["--out", str(root), "--num-phantoms", "1"]


def _file(place: Place) -> list[str]:
    return ["--out", place.file("mine.txt", "mine"), "--num-phantoms", "1"]


ATTACKS = {
    "no folder": Attack(lambda _: [], "no folder to write to; give --out"),
    "a file": Attack(_file, "mine.txt: a file; choose a folder"),
    "another data set": Attack(_foreign, "raw: holds another data set"),
    "none of them": usual("`num_phantoms`: .*greater than", "--num-phantoms", "0"),
    "too few slices": usual("phantom of 7 slices; give at least 8", "--phantom.num-slices", "7"),
    "too many slices": usual("e.10 voxels; give fewer slices", "--phantom.num-slices", "1000000"),
    "spacing below all": usual("phantom spacing -1.0 mm", "--phantom.spacing-mm", "-1"),
    "spacing of an atom": usual("e.28 voxels; give fewer", "--phantom.spacing-mm", "1e-7"),
    "no field of view": usual(r"fov_mm \(0\.0, 300\.0\)", "--phantom.fov-mm", "0", "300"),
    "heads without maps": usual("give --label-maps FOLDER", "--kind", "head"),
    "maps that are nowhere": usual(
        "nowhere: no such folder; give the folder of head label maps",
        "--kind",
        "head",
        "--label-maps",
        "nowhere",
    ),
    "a contrast for an abdomen": usual(
        "--contrast says nothing of --kind abdomen", "--contrast", "t1"
    ),
    "slices for a head": usual(
        "--phantom says nothing of --kind head", "--kind", "head", "--phantom.num-slices", "20"
    ),
    "unknown site": usual("phantom site '../A'; choose one", "--phantom.site", "../A"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_make_phantoms(name: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    attack(job.main, ATTACKS[name], place, capsys)
