"""The words that data sets use for organs, lesions and parts of brain tumours, as plain tables.

Sources: the `dataset.json` files and papers of AbdomenCT-1K, AMOS, BTCV, FLARE, KiTS, the Medical
Segmentation Decathlon, TotalSegmentator and BraTS 2012 to 2024.
"""

from __future__ import annotations

SIDES = {
    "left": "left", "l": "left", "lt": "left", "sinister": "left",
    "right": "right", "r": "right", "rt": "right", "dexter": "right",
}  # fmt: skip

# words that say nothing of what a structure is
EMPTY_WORDS = {
    "the", "a", "of", "and", "or", "with", "label", "class", "mask", "organ", "region", "area",
    "peritumoral", "peritumoural", "gd", "gadolinium", "contrast", "primary", "solid", "parenchyma",
}  # fmt: skip

WORDS = {
    "arota": "aorta",  # so spelt in AMOS
    "colonic": "colon", "colorectal": "colon",
    "edematous": "edema", "oedema": "edema", "oedematous": "edema",
    "enhanced": "enhancing", "enhance": "enhancing", "enhancement": "enhancing",
    "hepatic": "liver", "hepar": "liver",
    "necrotic": "necrosis", "nonenhancing": "non enhancing", "nonenhanced": "non enhancing",
    "oesophagus": "esophagus", "oesophageal": "esophagus", "esophageal": "esophagus",
    "pancreatic": "pancreas", "renal": "kidney", "suprarenal": "adrenal",
}  # fmt: skip

TUMORS = {
    "tumor", "tumour", "cancer", "carcinoma", "neoplasm", "malignancy", "metastasis", "metastase",
    "hcc", "adenocarcinoma", "glioma",
}  # fmt: skip
LESIONS = {"lesion", "mass", "masse", "abnormality", "finding"}
CYSTS = {"cyst"}

ABBREVIATIONS = {
    "ed": "edema", "et": "enhancing tumor", "ncr": "necrosis", "net": "non enhancing tumor",
    "netc": "non enhancing tumor core", "snfh": "edema", "rc": "resection cavity",
    "tc": "tumor core", "wt": "whole tumor", "at": "enhancing tumor",
    "ivc": "inferior vena cava", "svc": "superior vena cava", "postcava": "inferior vena cava",
    "lag": "left adrenal gland", "rag": "right adrenal gland",
    "lk": "left kidney", "rk": "right kidney", "pv": "portal vein", "psv": "portal splenic vein",
}  # fmt: skip

# canonical name -> what else it is called
PARTS_OF_BRAIN_TUMORS = {
    "edema": (
        "edema invaded tissue", "vasogenic edema", "edema infiltration",
        "surrounding non enhancing flair hyperintensity",
    ),
    "necrosis": ("necrosis core", "necrosis tumor", "necrosis tumor core", "necrosis center"),
    "non enhancing tumor": ("non enhancing",),
    "non enhancing core": (  # necrosis, or tumour that takes no contrast agent: not distinguished
        "non enhancing tumor core", "necrosis non enhancing", "necrosis non enhancing tumor",
        "necrosis non enhancing core", "necrosis non enhancing tumor core",
        "necrosis tumor non enhancing tumor", "necrosis core non enhancing tumor",
    ),
    "enhancing tumor": ("enhancing", "enhancing core", "enhancing tumor core", "active tumor"),
    "tumor core": ("core",),
    "whole tumor": ("complete tumor", "entire tumor"),
    "resection cavity": ("cavity",),
}  # fmt: skip
ORGANS = {
    "liver": (), "kidney": (), "spleen": ("lien",), "pancreas": (), "stomach": (),
    "gallbladder": ("gall bladder",), "esophagus": (), "duodenum": (),
    "aorta": ("abdominal aorta",),
    "inferior vena cava": ("vena cava", "post cava"),
    "portal vein splenic vein": ("portal splenic vein", "portal vein", "vein"),
    "adrenal gland": ("adrenal",), "urinary bladder": ("bladder",),
    "prostate": (), "uterus": (), "prostate uterus": (), "rectum": (),
    "small bowel": ("small intestine",), "colon": ("large bowel", "large intestine"),
    "lung": (), "heart": (), "brain": (), "body": ("skin",), "liver vessel": (), "vessel": (),
    "kidney vein": (), "kidney artery": (), "intestine": ("bowel",), "femur head": (),
}  # fmt: skip

_CORE = ("non enhancing core", "tumor core", "whole tumor")
# what a structure lies inside of
INSIDE = {
    "edema": ("whole tumor", "brain"),
    "necrosis": (*_CORE, "brain"),
    "non enhancing tumor": (*_CORE, "brain"),
    "non enhancing core": ("tumor core", "whole tumor", "brain"),
    "enhancing tumor": ("tumor core", "whole tumor", "brain"),
    "tumor core": ("whole tumor", "brain"),
    "whole tumor": ("brain",),
    "resection cavity": ("brain",),
}
# what is one of several classes: a label that does not tell them apart fits each
EITHER = {
    "non enhancing core": ("necrosis", "non enhancing tumor"),
    "vessel": ("liver vessel",),
    "liver vessel": ("vessel",),
}
# region -> the region inside it, and what is left around that
REST_OF_REGION = {
    "whole tumor": ("tumor core", "edema"),
    "tumor core": ("enhancing tumor", "non enhancing core"),
}
