"""Head cohorts: MR-like images from label maps of real heads, with the truth of every case.

`label map -> Anatomy -> signal at 1 mm (contrast, individual, lesions) -> image of a site`.
`docs/heads.md` describes the model and how its images differ from real ones. Knows no network.
"""

from engine.volumes.heads.anatomy import (
    Anatomy,
    LabelMapFile,
    list_label_maps,
    make_anatomy,
    read_anatomy,
)
from engine.volumes.heads.cohort import Head, HeadConfig, head_id, make_head, write_heads
from engine.volumes.heads.labels import LEVELS, Level, level_config

__all__ = [
    "LEVELS",
    "Anatomy",
    "Head",
    "HeadConfig",
    "LabelMapFile",
    "Level",
    "head_id",
    "level_config",
    "list_label_maps",
    "make_anatomy",
    "make_head",
    "read_anatomy",
    "write_heads",
]
