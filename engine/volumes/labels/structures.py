"""What a name of a label stands for, and whether two names stand for the same.

`left kidney`, `kidney_left` and `Kidney L` are one structure; `cancer` is a lesion of no organ in
particular. Names that the vocabulary does not hold are compared word by word and never contradict.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from engine.volumes.labels.tables.totalsegmentator import VERSION_1, VERSION_2
from engine.volumes.labels.tables.vocabulary import (
    ABBREVIATIONS,
    CYSTS,
    EITHER,
    EMPTY_WORDS,
    INSIDE,
    LESIONS,
    ORGANS,
    PARTS_OF_BRAIN_TUMORS,
    SIDES,
    TUMORS,
    WORDS,
)

Relation = Literal["same", "either", "inside", "other", "unknown"]

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORD = re.compile(r"[a-z0-9]+")
_BRACKETS = re.compile(r"\([^)]*\)")
_KEPT_S = ("ss", "us", "is", "as", "os")  # pancreas, uterus, necrosis: no plurals


@dataclass(frozen=True)
class Structure:
    """What a name stands for.

    Attributes:
        name: of an organ or a part of a brain tumour; "" for a lesion of no organ in particular;
            the words themselves, sorted, where the vocabulary does not hold them.
        side: "left", "right" or "".
        lesion: "tumor", "lesion" (any kind), "cyst", or "" for what is none.
        known: whether the vocabulary holds it.
    """

    name: str
    side: str
    lesion: str
    known: bool


@lru_cache(maxsize=4096)
def structure(name: str) -> Structure:
    """What a name stands for.

    >>> structure("Kidney_L") == structure("left kidneys")
    True
    >>> structure("hepatic tumour")
    Structure(name='liver', side='', lesion='tumor', known=True)
    """
    found = _structure(name)
    if not found.known and "(" in name:  # "Enhancing tumor (ET)"
        plain = _structure(_BRACKETS.sub(" ", name))
        return plain if plain.known else found
    return found


def _structure(name: str) -> Structure:
    words = _words(name)
    side = " ".join(sorted({SIDES[w] for w in words if w in SIDES}))
    rest = frozenset(w for w in words if w not in SIDES)
    if rest in _KNOWN:
        return Structure(_KNOWN[rest], side, "", True)
    lesion = next((k for k, kinds in _KINDS.items() if rest & kinds), "")
    organ = rest - _KINDS[lesion] if lesion else rest
    if lesion and not organ:
        return Structure("", side, lesion, True)
    if lesion and organ in _KNOWN:
        return Structure(_KNOWN[organ], side, lesion, True)
    return Structure(" ".join(sorted(rest)), side, "", False)


def _words(name: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", _CAMEL.sub(" ", name)).casefold()
    words: list[str] = []
    for word in _WORD.findall(plain):
        word = ABBREVIATIONS.get(word, word)
        for part in word.split():
            part = WORDS.get(part, part)
            words += [_singular(w) for w in part.split()]
    return [w for w in words if w not in EMPTY_WORDS]


def _singular(word: str) -> str:
    if word == "primaries":
        return "primary"
    if word in ("metastases", "tumour"):
        return {"metastases": "metastasis", "tumour": "tumor"}[word]
    if len(word) > 3 and word.endswith("s") and not word.endswith(_KEPT_S):
        return "tumor" if word == "tumours" else word[:-1]
    return word


_KINDS: dict[str, frozenset[str]] = {
    "tumor": frozenset(TUMORS),
    "cyst": frozenset(CYSTS),
    "lesion": frozenset(LESIONS),
}
_OTHERS = {n for names in (VERSION_1, VERSION_2) for n in names.values() if "cyst" not in n}
_KNOWN: dict[frozenset[str], str] = {
    frozenset(w for w in _words(name) if w not in SIDES): " ".join(
        w for w in _words(name) if w not in SIDES
    )
    for name in sorted(_OTHERS)
} | {
    frozenset(_words(other)): name
    for name, others in {**ORGANS, **PARTS_OF_BRAIN_TUMORS}.items()
    for other in (name, *others)
}


def relation(label: str, klass: str) -> Relation:
    """What a label of a data set is to a class.

    Args:
        label: the data set's own name.
        klass: the class's name.

    Returns:
        "same"; "either": the label does not tell the class from another; "inside": a part of it, or
        a lesion in it; "other": something else; "unknown": the names do not tell.
    """
    a, b = structure(label), structure(klass)
    if b.side and a.side != b.side and a.name == b.name:
        return "other"
    if (a.name, a.lesion) == (b.name, b.lesion):
        return "same"
    if not (a.known and b.known):
        return "unknown"
    if a.lesion or b.lesion:
        return _lesion_relation(a, b)
    if b.name in EITHER.get(a.name, ()):
        return "either"
    if b.name in INSIDE.get(a.name, ()) or b.name == "body":
        return "inside"
    return "other"


def _lesion_relation(a: Structure, b: Structure) -> Relation:
    """Where one of them is a lesion."""
    if not b.lesion:
        return "inside" if a.name in ("", b.name) or b.name == "body" else "other"
    if not a.lesion:  # a part of a brain tumour, or an organ
        return "inside" if a.name in INSIDE and b.name in ("", "brain") else "other"
    if "cyst" in (a.lesion, b.lesion) and a.lesion != b.lesion and b.lesion != "lesion":
        return "other"
    if a.name == b.name:  # tumour and lesion
        return "same"
    if b.name == "":
        return "inside"
    return "either" if a.name == "" else "other"
