"""What public data sets number their labels: plain tables, by the name for `--labels`.

Each is as the data set's own `dataset.json`, paper or label list says. BraTS changed its numbers:
four parts until 2016, necrosis and non-enhancing tumour as one (and 4 for enhancing) from 2017 to
2021, 3 for enhancing since 2023.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from engine.errors import ConfigError
from engine.volumes.labels.tables.totalsegmentator import VERSION_1, VERSION_2


@dataclass(frozen=True)
class LabelTable:
    """A public data set's labels.

    Attributes:
        name: for `--labels`.
        title: of the data set.
        names: raw label -> what it is; background is left out.
        also: other spellings of `name`.
        files: regular expression of `CASE_ID/MASK_NAME`, where its publishers' names are its own.
    """

    name: str
    title: str
    names: Mapping[int, str]
    also: tuple[str, ...] = ()
    files: str = ""


_KIDNEYS = {2: "right kidney", 3: "left kidney"}
_UPPER_ABDOMEN = {
    1: "spleen", **_KIDNEYS, 4: "gallbladder", 5: "esophagus", 6: "liver", 7: "stomach",
    8: "aorta", 9: "inferior vena cava",
}  # fmt: skip
_AMOS = {
    **_UPPER_ABDOMEN, 10: "pancreas", 11: "right adrenal gland", 12: "left adrenal gland",
    13: "duodenum", 14: "bladder", 15: "prostate/uterus",
}  # fmt: skip
_BTCV = {
    **_UPPER_ABDOMEN, 10: "portal vein and splenic vein", 11: "pancreas",
    12: "right adrenal gland", 13: "left adrenal gland",
}  # fmt: skip
_FLARE = {
    1: "liver", 2: "right kidney", 3: "spleen", 4: "pancreas", 5: "aorta", 6: "inferior vena cava",
    7: "right adrenal gland", 8: "left adrenal gland", 9: "gallbladder", 10: "esophagus",
    11: "stomach", 12: "duodenum", 13: "left kidney",
}  # fmt: skip
_WORD = {
    1: "liver", 2: "spleen", 3: "left kidney", 4: "right kidney", 5: "stomach", 6: "gallbladder",
    7: "esophagus", 8: "pancreas", 9: "duodenum", 10: "colon", 11: "intestine", 12: "adrenal",
    13: "rectum", 14: "bladder", 15: "left head of femur", 16: "right head of femur",
}  # fmt: skip
_CHAOS = {63: "liver", 126: "right kidney", 189: "left kidney", 252: "spleen"}

TABLES = (
    LabelTable(
        "abdomenct1k",
        "AbdomenCT-1K",
        {1: "liver", 2: "kidney", 3: "spleen", 4: "pancreas"},
        ("flare21", "flare2021"),
    ),
    LabelTable("amos", "AMOS 2022", _AMOS, ("amos22", "amos2022"), r"amos_\d{4}/.*"),
    LabelTable("btcv", "BTCV (Synapse)", _BTCV, ("synapse",), r"label\d{4}/.*"),
    LabelTable("chaos", "CHAOS (MR)", _CHAOS, ("chaos_mr",)),
    LabelTable("flare22", "FLARE 2022", _FLARE, ("flare2022",), r"FLARE22_T[rs]_\d+/.*"),
    LabelTable("flare23", "FLARE 2023", {**_FLARE, 14: "tumor"}, ("flare2023", "flare24")),
    LabelTable(
        "kits23",
        "KiTS 2023",
        {1: "kidney", 2: "tumor", 3: "cyst"},
        ("kits", "kits19", "kits21"),
        r"case_\d{5}/segmentation\..*",
    ),
    LabelTable("word", "WORD", _WORD, files=r"word_\d{4}/.*"),
    LabelTable("totalsegmentator1", "TotalSegmentator 1", VERSION_1, ("totalsegmentatorv1",)),
    LabelTable("totalsegmentator2", "TotalSegmentator 2", VERSION_2, ("totalsegmentatorv2",)),
    LabelTable(
        "msd_braintumour",
        "MSD Task01 BrainTumour",
        {1: "edema", 2: "non-enhancing tumor", 3: "enhancing tumour"},
        ("msd_braintumor", "msd_brain", "task01", "msd_task01", "task01_braintumour"),
        r"BRATS_\d{3}/.*",
    ),
    LabelTable(
        "msd_liver",
        "MSD Task03 Liver",
        {1: "liver", 2: "cancer"},
        ("task03", "msd_task03", "task03_liver", "lits"),
        r"segmentation-\d+/.*",
    ),
    LabelTable(
        "msd_pancreas",
        "MSD Task07 Pancreas",
        {1: "pancreas", 2: "cancer"},
        ("task07", "msd_task07", "task07_pancreas"),
    ),
    LabelTable(
        "msd_hepaticvessel",
        "MSD Task08 HepaticVessel",
        {1: "vessel", 2: "tumour"},
        ("task08", "msd_task08", "task08_hepaticvessel"),
    ),
    LabelTable(
        "msd_spleen",
        "MSD Task09 Spleen",
        {1: "spleen"},
        ("task09", "msd_task09", "task09_spleen"),
    ),
    LabelTable(
        "msd_colon",
        "MSD Task10 Colon",
        {1: "colon cancer primaries"},
        ("task10", "msd_task10", "task10_colon"),
    ),
    LabelTable(
        "brats2013",
        "BraTS 2012 to 2016",
        {1: "necrosis", 2: "edema", 3: "non-enhancing tumor", 4: "enhancing tumor"},
        ("brats2012", "brats2014", "brats2015", "brats2016"),
    ),
    LabelTable(
        "brats2020",
        "BraTS 2017 to 2021",
        {1: "necrotic and non-enhancing tumor core", 2: "edema", 4: "enhancing tumor"},
        ("brats2017", "brats2018", "brats2019", "brats2021", "brats21", "brats20"),
        r"(?:BraTS20_Training_\d{3}|BraTS2021_\d{5}|Brats1[789]_.*|BraTS19_.*)/.*",
    ),
    LabelTable(
        "brats2023",
        "BraTS 2023",
        {1: "necrotic tumor core", 2: "edema", 3: "enhancing tumor"},
        ("brats23",),
        r"BraTS-GLI-\d{5}-0\d\d/.*",
    ),
    LabelTable(
        "brats2024",
        "BraTS 2024 (after treatment)",
        {1: "non-enhancing tumor core", 2: "edema", 3: "enhancing tumor", 4: "resection cavity"},
        ("brats24",),
        r"BraTS-GLI-\d{5}-1\d\d/.*",
    ),
)


def find_table(name: str) -> LabelTable:
    """The table of a public data set, by any spelling of its name.

    >>> find_table("AbdomenCT-1K").name
    'abdomenct1k'

    Raises:
        ConfigError: none is called so; names those there are.
    """
    wanted = _plain(name)
    for table in TABLES:
        if wanted in {_plain(known) for known in (table.name, *table.also)}:
            return table
    raise ConfigError(
        f"labels: no label map {name!r}; there are {', '.join(t.name for t in TABLES)}, and "
        "`dataset` for the names that the data set's own dataset.json gives"
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())
