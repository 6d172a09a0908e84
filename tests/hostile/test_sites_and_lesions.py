"""Bad sites, tables, lesions and drawn masks, given to harmonize_sites and edit_lesions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import jobs.edit_lesions as edit_job
import jobs.harmonize_sites as site_job
from engine.volumes.nifti import write_nifti
from engine.volumes.prepared.manifest import PreparedManifest, read_manifest, write_manifest
from engine.volumes.volume import Volume
from tests.hostile.room import Attack, Place, attack
from tests.runs.fakes import make_case, make_data


def table(expected: str, text: str | bytes) -> Attack:
    def args(place: Place) -> list[str]:
        return place.usual("--table", place.file("sites.csv", text))

    return Attack(args, expected)


def sites(expected: str, *given: str, make: Callable[[Place], object] = lambda _: None) -> Attack:
    """Sites of a folder each; `a` and `b` are sound."""

    def args(place: Place) -> list[str]:
        for name in "ab":
            make_data(place.root / name, num_cases=1)
        make(place)
        return place.usual("--sites", *given, data=False)

    return Attack(args, expected)


def _other_settings(place: Place) -> None:
    manifest = read_manifest(place.root / "b")
    config = manifest.config.model_copy(update={"margin_slices": 3})
    write_manifest(place.root / "b", manifest.model_copy(update={"config": config}))


def _no_images(place: Place) -> list[str]:
    for name in "ab":
        make_data(place.root / name, num_cases=1, without_image=("case0",))
    return place.usual("--sites", "A=a", "B=b", data=False)


SITES = {
    "none": Attack(lambda p: p.usual(data=False), "no sites; give --sites NAME=FOLDER"),
    "one": sites("one site has nothing to be harmonized with", "A=a"),
    "without a name": sites("'a' is not NAME=FOLDER", "a", "B=b"),
    "one name twice": sites("'A=b' is not NAME=FOLDER with a name of its own", "A=a", "A=b"),
    "one folder twice": sites("'B=a' is the folder of another site", "A=a", "B=a"),
    "name with a path": sites(r"sites: site name '\.\./\.\./A' is refused", "../../A=a", "B=b"),
    "name with an escape": sites(r"site name 'A\\x1b\[2J' is refused", "A\x1b[2J=a", "B=b"),
    "name that could be two": sites("'A--x' is refused; give it .*single '-'", "A--x=a", "A=b"),
    "folder not there": sites("sites: gone is not a folder", "A=a", "B=gone"),
    "folder not prepared": sites(
        r"raw/dataset\.json: missing", "A=a", "B=raw", make=lambda p: (p.root / "raw").mkdir()
    ),
    "prepared otherwise": sites("prepared with different", "A=a", "B=b", make=_other_settings),
    "no images": Attack(_no_images, "no case with an image in the sites; |reference: no case"),
    "table without its data": Attack(
        lambda p: p.usual("--table", "sites.csv", data=False), "data and table belong together"
    ),
    "table not there": Attack(lambda p: p.usual("--table", "gone.csv"), "gone.csv: cannot read"),
    "table with semicolons": table("separate columns by commas", "case;site\ncase0;A\n"),
    "table that is binary": table(r"sites\.csv: cannot read the table \('utf-8'", b"\xff\xfe\x00"),
    "case twice": table(
        r"sites\.csv:3: case 'case0' has no site, or two", "case,site\ncase0,A\ncase0,B\n"
    ),
    "case without a site": table(
        r"csv:3: case 'case1' has no site, or two", "case,site\ncase0,A\ncase1,\n"
    ),
    "no case": table(r"sites\.csv:2: case '' is not in", "case,site\n,A\ncase1,B\n"),
    "unknown case": table(
        "'pat9' is not in the prepared data; it holds case0", "case,site\npat9,A"
    ),
    "case with a path": table(r"case '\.\./case0' is not in", "case,site\n../case0,A\n"),
    "site with a path": table(
        r"sites\.csv:3: site name '\.\./\.\.' is refused", "case,site\ncase0,A\ncase1,../..\n"
    ),
    "one site only": table("names one site only", "case,site\ncase0,A\ncase1,A\n"),
    "unknown reference": Attack(
        lambda p: p.usual(
            *("--table", p.file("sites.csv", "case,site\ncase0,A\ncase1,B\n")),
            *("--reference-site", "../C"),
        ),
        r"no case with an image in site \.\./C; the sites are A, B",
    ),
}


def edit(expected: str, *more: str) -> Attack:
    return Attack(lambda place: place.usual("--classes", "spleen", *more), expected)


def drawn(
    expected: str, change: Callable[[np.ndarray], np.ndarray], shift_mm: float = 0.0
) -> Attack:
    """A mask drawn for case1."""

    def args(place: Place) -> list[str]:
        _, labels = make_case(1)
        affine = labels.affine.copy()
        affine[0, 3] += shift_mm
        array = change(labels.array).astype(np.uint8)
        write_nifti(place.root / "drawn.nii.gz", Volume(array, affine, "drawn"))
        return place.usual("--cases", "case1", "--drawn", "drawn.nii.gz")

    return Attack(args, expected)


def _without_spleen(place: Place) -> list[str]:
    from engine.volumes.prepared.store import read_prepared

    mask = read_prepared(place.data / "case1.zarr").mask
    place.edit_case("case1", mask=np.where(mask == 2, 3, mask).astype(np.uint8))
    return place.usual("--classes", "spleen", "--remove", "--cases", "case1")


EDITS = {
    "no data": Attack(lambda p: p.usual("--remove", data=False), "no data; give --data FOLDER of"),
    "no edit": edit("no edit; give --shift-mm-zyx"),
    "two edits": edit("give one edit", "--remove", "--scale", "2"),
    "class that is none": edit(
        r"classes \['tumour'\] are not in the data", "--remove", "--classes", "tumour"
    ),
    "class not in the case": Attack(_without_spleen, "case1: classes .2. are not in this mask"),
    "component that is none": edit(
        "case1: component 9 of classes .2.: the mask has 1",
        *("--remove", "--component", "9", "--cases", "case1"),
    ),
    "shift out of the body": edit(
        "case0: classes .2.: nothing is left of them",
        *("--shift-mm-zyx", "0", "0", "9000", "--cases", "case0"),
    ),
    "shift that is no number": edit(
        "command line: `shift_mm_zyx.2`: .*finite", "--shift-mm-zyx", "0", "0", "nan"
    ),
    "scale of zero": edit("command line: `scale`: .*greater than", "--scale", "0"),
    "out in the data": edit("data/x lies in", "--remove", "--out", "data/x"),
    "drawn for all": edit("drawn is a mask of one case", "--drawn", "drawn.nii.gz"),
    "drawn is not there": edit(
        "gone.nii.gz: no such file", "--drawn", "gone.nii.gz", "--cases", "case1"
    ),
    "drawn on another grid": drawn("drawn.nii.gz: mask of 13 x 26 x 28", lambda a: a[1:]),
    "drawn elsewhere": drawn("drawn.nii.gz: the affine differs", lambda a: a, shift_mm=9.0),
    "drawn label unknown": drawn(r"labels \[7\] are outside", lambda a: np.where(a == 2, 7, a)),
    "drawn empty": drawn("drawn.nii.gz: empty mask", np.zeros_like),
}


@pytest.mark.parametrize("name", SITES)
def test_harmonize_sites(name: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    attack(site_job.main, SITES[name], place, capsys)


@pytest.mark.parametrize("name", EDITS)
def test_edit_lesions(name: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    attack(edit_job.main, EDITS[name], place, capsys)


def test_a_spreadsheets_mark_at_the_start_of_a_table_is_no_letter(place: Place) -> None:
    text = "\ufeffcase,site\r\ncase0,A\r\ncase1,B\r\n"
    args = place.usual("--table", place.file("sites.csv", text), "--gate.policy", "off")
    assert site_job.main(args) == 0
    assert len(list((place.out / "commits").iterdir())) == 2


def test_sites_in_folders_of_one_name_are_told_apart(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """A site's data changed: refused by the site's name, wherever its folder lies."""
    folders = [make_data(place.root / site / "prepared", num_cases=1) for site in "ab"]
    given = [f"{name}={folder}" for name, folder in zip("AB", folders, strict=True)]
    args = place.usual("--sites", *given, data=False)
    assert site_job.main(args) == 0
    for site, folder in zip("AB", folders, strict=True):
        before = _change(folder)
        assert site_job.main(args) == 2
        expected = capsys.readouterr().err
        assert f"data.site {site} was" in expected
        assert expected.count("data.site") == 1, "the other site is what it was"
        write_manifest(folder, before)
    assert site_job.main(args) == 0


def _change(folder: Path) -> PreparedManifest:
    manifest = read_manifest(folder)
    cases = {
        name: entry.model_copy(update={"sha256": "0" * 64})
        for name, entry in manifest.cases.items()
    }
    write_manifest(folder, manifest.model_copy(update={"cases": cases}))
    return manifest
