"""Names of labels: what is one structure, and what is another."""

import pytest

from engine.volumes.labels.structures import relation, structure
from engine.volumes.labels.tables.public import TABLES


@pytest.mark.parametrize(
    "names",
    [
        ("left kidney", "kidney_left", "Kidney L", "LeftKidney", "kidneys-left", "LK"),
        ("liver", "Liver", "LIVER", "hepar", "liver parenchyma"),
        ("gall bladder", "gallbladder", "GallBladder"),
        ("postcava", "IVC", "inferior vena cava", "inferior_vena_cava"),
        ("aorta", "arota"),
        ("esophagus", "oesophagus"),
        ("ET", "enhancing", "enhancing tumor", "GD-enhancing tumour", "Enhancing tumor (ET)"),
        ("ED", "edema", "oedema", "peritumoral edema", "Peritumoral edematous/invaded tissue"),
        ("NCR", "necrosis", "necrotic core", "necrotic tumor core"),
        ("NCR/NET", "NETC", "necrotic and non-enhancing tumor core"),
        ("NET", "non_enhancing_tumor", "non-enhancing", "nonenhancing tumour"),
        ("cancer", "tumor", "tumours", "metastases"),
        ("hepatic tumour", "liver_tumor", "liver cancer", "Liver tumors"),
    ],
)
def test_spellings_of_one_structure(names: tuple[str, ...]) -> None:
    for name in names[1:]:
        assert structure(name) == structure(names[0]), name
        assert relation(name, names[0]) == "same"


@pytest.mark.parametrize(
    ("label", "klass", "expected"),
    [
        ("left kidney", "kidney", "same"),
        ("left kidney", "kidney_right", "other"),
        ("kidney", "kidney_right", "other"),  # both sides are no side
        ("esophagus", "liver", "other"),
        ("liver", "liver tumor", "other"),
        ("liver tumor", "liver", "inside"),
        ("cancer", "liver", "inside"),
        ("kidney tumor", "liver", "other"),
        ("tumor", "lesion", "same"),
        ("cyst", "tumor", "other"),
        ("cyst", "lesion", "same"),
        ("edema", "whole tumor", "inside"),
        ("edema", "tumor_core", "other"),
        ("NCR/NET", "necrosis", "either"),
        ("NCR/NET", "non_enhancing_tumor", "either"),
        ("ET", "non_enhancing_tumor", "other"),
        ("enhancing tumor", "lesion", "inside"),
        ("vertebrae_L1", "liver", "other"),
        ("Vessel", "hepatic_vessel", "either"),
        ("Leber", "liver", "unknown"),
        ("liver", "object", "unknown"),
        ("label 3", "Label_3", "same"),
    ],
)
def test_relations(label: str, klass: str, expected: str) -> None:
    assert relation(label, klass) == expected


def test_every_name_of_the_shipped_tables_is_known_and_told_apart() -> None:
    for table in TABLES:
        found = [structure(name) for name in table.names.values()]
        assert all(known.known for known in found), table.name
        assert len(set(found)) == len(found), table.name
