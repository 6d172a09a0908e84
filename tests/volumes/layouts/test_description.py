"""dataset.json as people write it: read where it can be, refused with the place to correct."""

import json
from pathlib import Path

import pytest

from engine.errors import LayoutError
from engine.volumes.layouts.description import channel_names, check_channel, read_description

TEXT = json.dumps({"labels": {"background": 0, "Leber": 1}, "modality": {"0": "CT"}})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_of_editors_are_read(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_bytes(TEXT.encode(encoding))
    assert read_description(path) == json.loads(TEXT)


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ('{"a": {"0": "CT",},\n "b": 1}', r"a comma before '}' in line 1; delete the comma"),
        ('{"a": 1,\n "b": [1, 2,\n]}', r"a comma before ']' in line 2; delete the comma"),
        ("{'a': 1}", r"not valid JSON \(Expecting property name"),
        ("", r"not valid JSON \(Expecting value"),
        ("[1]", "the top level is no object"),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(text: str, output: str, tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(text)
    with pytest.raises(LayoutError, match=output) as caught:
        read_description(path)
    assert str(path) in str(caught.value)


def test_channels_by_number() -> None:
    where = Path("dataset.json")
    both = {"modality": {"0": "T1"}, "channel_names": {"0": "T2", "1": "ADC"}}
    assert channel_names(where, both) == {0: "T2", 1: "ADC"}
    assert channel_names(where, {"modality": ["FLAIR", "T1w"]}) == {0: "FLAIR", 1: "T1w"}
    assert channel_names(where, {"modality": "CT"}) == {0: "CT"}
    assert channel_names(where, {}) == {}
    with pytest.raises(LayoutError, match="must be an object such as"):
        channel_names(where, {"channel_names": {"CT": 0}})


def test_channel_must_be_named() -> None:
    check_channel(Path("d"), {}, 7)
    with pytest.raises(LayoutError, match=r"no channel 2 \(there are \['0', '1'\]: T2, ADC\)"):
        check_channel(Path("d"), {1: "ADC", 0: "T2"}, 2)
