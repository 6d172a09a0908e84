"""TotalSegmentator's labels. Version 2 renumbered them: 7 is the aorta in 1 and the pancreas in 2.

As `class_map` of TotalSegmentator says (tasks `total_v1` and `total`). The MR task `total_mr` has
the numbers of version 2 up to 9, and others above.
"""

from __future__ import annotations

_SPINE = tuple(
    f"vertebrae_{part}{number}"
    for part, last in (("L", 5), ("T", 12), ("C", 7))
    for number in range(last, 0, -1)
)
_RIBS = tuple(f"rib_{side}_{number}" for side in ("left", "right") for number in range(1, 13))


def _pairs(*names: str) -> tuple[str, ...]:
    """Left, then right, of each."""
    return tuple(f"{name}_{side}" for name in names for side in ("left", "right"))


_SHOULDERS = _pairs("humerus", "scapula", "clavicula")
_HIPS = _pairs("femur", "hip")
_GLUTEI = _pairs("gluteus_maximus", "gluteus_medius", "gluteus_minimus")
_BACK = _pairs("autochthon", "iliopsoas")
_LUNGS = (
    "lung_upper_lobe_left", "lung_lower_lobe_left", "lung_upper_lobe_right",
    "lung_middle_lobe_right", "lung_lower_lobe_right",
)  # fmt: skip
_FIRST = ("spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach")

_NAMES_1 = (
    *_FIRST, "aorta", "inferior_vena_cava", "portal_vein_and_splenic_vein", "pancreas",
    "adrenal_gland_right", "adrenal_gland_left", *_LUNGS, *_SPINE, "esophagus", "trachea",
    "heart_myocardium", "heart_atrium_left", "heart_ventricle_left", "heart_atrium_right",
    "heart_ventricle_right", "pulmonary_artery", "brain", *_pairs("iliac_artery", "iliac_vena"),
    "small_bowel", "duodenum", "colon", *_RIBS, *_SHOULDERS, *_HIPS, "sacrum", "face", *_GLUTEI,
    *_BACK, "urinary_bladder",
)  # fmt: skip
_NAMES_2 = (
    *_FIRST, "pancreas", "adrenal_gland_right", "adrenal_gland_left", *_LUNGS, "esophagus",
    "trachea", "thyroid_gland", "small_bowel", "duodenum", "colon", "urinary_bladder", "prostate",
    "kidney_cyst_left", "kidney_cyst_right", "sacrum", "vertebrae_S1", *_SPINE, "heart", "aorta",
    "pulmonary_vein", "brachiocephalic_trunk", "subclavian_artery_right",
    "subclavian_artery_left", "common_carotid_artery_right", "common_carotid_artery_left",
    "brachiocephalic_vein_left", "brachiocephalic_vein_right", "atrial_appendage_left",
    "superior_vena_cava", "inferior_vena_cava", "portal_vein_and_splenic_vein",
    *_pairs("iliac_artery", "iliac_vena"), *_SHOULDERS, *_HIPS, "spinal_cord", *_GLUTEI, *_BACK,
    "brain", "skull", *_RIBS, "sternum", "costal_cartilages",
)  # fmt: skip

VERSION_1 = dict(enumerate(_NAMES_1, start=1))
VERSION_2 = dict(enumerate(_NAMES_2, start=1))
