"""The contour is what the settings added; exported names and voxels have one numbering."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import RunError, StoreError
from engine.volumes.class_names import name_faults
from engine.volumes.labels.contour_class import (
    contour_number,
    is_organ,
    organ_names,
    stored_contour,
)
from engine.volumes.labels.exported import exported_labels
from engine.volumes.prepare_config import PrepareConfig

NAMES = ["body", "liver", "kidney", "spleen", "brain"]


@pytest.mark.parametrize(
    ("attributes", "contour"),
    [
        ({"class_names": ["body", "liver"], "contour": None}, None),
        ({"class_names": ["liver", "body"], "contour": None}, None),
        ({"class_names": ["liver", "body"], "contour": "body"}, "body"),
        ({"class_names": ["brain", "liver", "body"], "contour": "body"}, "body"),
        ({"class_names": ["liver", "body"]}, "body"),  # from before the attribute
        ({"class_names": ["body", "liver"]}, None),  # the contour was always the last class
    ],
)
def test_contour_is_read_from_the_attribute(
    attributes: dict[str, Any], contour: str | None
) -> None:
    assert stored_contour(attributes) == contour


def test_a_contour_that_is_no_class_is_refused() -> None:
    with pytest.raises(StoreError, match="'body', no class of liver"):
        stored_contour({"class_names": ["liver"], "contour": "body"})


def test_organs_are_all_but_the_contour() -> None:
    mask = np.array([[[0, 1, 2]]], np.uint8)
    assert is_organ(mask, ("body", "liver"), None).tolist() == [[[False, True, True]]]
    assert is_organ(mask, ("liver", "body"), "body").tolist() == [[[False, True, False]]]
    assert organ_names(("brain", "liver", "body"), "body") == ("brain", "liver")
    assert contour_number(("brain", "liver", "body"), "body") == 3


@given(names=st.permutations(NAMES), contour=st.sampled_from([None, *NAMES]), drop=st.booleans())
def test_exported_voxels_bear_the_name_they_had(
    names: list[str], contour: str | None, drop: bool
) -> None:
    """For a contour at any place, dropped or kept."""
    labels = exported_labels({"class_names": names, "contour": contour}, drop)
    numbers = labels.description()
    assert sorted(numbers.values()) == list(range(len(numbers))), "nnU-Net wants no gap"
    exported = labels.of(np.arange(len(names) + 1, dtype=np.uint8).reshape(1, 1, -1))[0, 0]
    assert exported[0] == 0
    for number, name in enumerate(names, start=1):
        is_dropped = drop and name == contour
        assert exported[number] == (0 if is_dropped else numbers[name])
        assert (name in numbers) is not is_dropped


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("liver", "background"), "'background' means something else"),
        (("Ignore",), "means something else"),
        (("liver", "Liver"), "there twice"),
        (("liver", " spleen"), "blanks around it"),
        (("",), "empty"),
        (("a\nb",), "cannot be seen"),
        (("x" * 101,), "longer than 100"),
    ],
)
def test_names_that_readers_would_mistake_are_refused(names: tuple[str, ...], message: str) -> None:
    assert message in name_faults(names)
    with pytest.raises(RunError, match="rename them"):
        exported_labels({"class_names": names, "contour": None}, False)
    with pytest.raises(ValueError, match="class_names"):
        PrepareConfig(label_map={n: n for n in range(1, len(names) + 1)}, class_names=names)


def test_a_class_beyond_the_names_is_refused() -> None:
    labels = exported_labels({"class_names": ["liver"], "contour": None}, True)
    with pytest.raises(RunError, match="holds class 2, of 1"):
        labels.of(np.full((1, 1, 1), 2, np.uint8))
