"""Headers of MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr): text before or beside the voxels.

SimpleITK reads these files and fills in what they leave out: 1 mm voxels, some orientation. What
must not be guessed is looked for here, and where the voxels are stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from engine.errors import VolumeError

_HEAD_BYTES = 2**16
_ENCODINGS = {"raw": "raw", "gzip": "zlib", "gz": "zlib", "bzip2": "bz2", "bz2": "bz2"}


@dataclass(frozen=True)
class ItkHeader:
    """What a header says about where the voxels are.

    Attributes:
        path: of the header.
        data: file that holds the voxels; `path` itself where they follow the header.
        offset: bytes in front of them.
        encoding: "raw", "zlib" (or gzip), "bz2", or "" where their size cannot be checked.
    """

    path: Path
    data: Path
    offset: int
    encoding: str


def read_header(path: Path) -> ItkHeader:
    """Read what a header says.

    Raises:
        VolumeError: unreadable, no such header, without spacing or orientation, or voxels in
            another folder or in many files.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError:
        raise VolumeError(f"{path}: no such file; correct the path") from None
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read ({error.strerror}); check permissions") from None
    if path.name.lower().endswith((".mha", ".mhd")):
        return _meta_image(path, head)
    return _nrrd(path, head)


def _meta_image(path: Path, head: bytes) -> ItkHeader:
    fields, offset = _fields(head, b"=", last="elementdatafile")
    if offset is None or "dimsize" not in fields:
        raise VolumeError(f"{path}: no MetaImage header in it; copy or download the file again")
    if not {"elementspacing", "elementsize"} & fields.keys():
        raise VolumeError(
            f"{path}: no ElementSpacing, the size of a voxel is unknown; write the file anew from "
            "the scan"
        )
    data = _data(path, fields["elementdatafile"], "LOCAL")
    known = fields.get("binarydata", "true").lower() == "true" and not int_of(fields, "headersize")
    zipped = fields.get("compresseddata", "false").lower() == "true"
    encoding = ("zlib" if zipped else "raw") if known else ""
    return ItkHeader(path, data, offset if data == path else 0, encoding)


def _nrrd(path: Path, head: bytes) -> ItkHeader:
    fields, offset = _fields(head, b":", last="")
    if not head.startswith(b"NRRD") or offset is None:
        raise VolumeError(f"{path}: no NRRD header in it; copy or download the file again")
    if not {"space", "space directions", "space origin"} <= fields.keys():
        raise VolumeError(
            f"{path}: no `space`, `space directions` and `space origin`, left and right are "
            "unknown; write the file anew from the scan"
        )
    name = fields.get("data file", fields.get("datafile", ""))
    data = _data(path, name, "")
    skips = any(int_of(fields, key) for key in ("byte skip", "byteskip", "line skip", "lineskip"))
    encoding = "" if skips else _ENCODINGS.get(fields.get("encoding", "").lower(), "")
    return ItkHeader(path, data, offset if data == path else 0, encoding)


def int_of(fields: dict[str, str], key: str) -> int:
    """A whole number of a header; 0 where there is none."""
    text = fields.get(key, "0").strip()
    return int(text) if text.lstrip("-").isdecimal() else 0


def _fields(head: bytes, between: bytes, last: str) -> tuple[dict[str, str], int | None]:
    """Keys in lower case, and where the line `last` (empty: the first empty line) ends."""
    fields: dict[str, str] = {}
    position = 0
    for line in head.splitlines(keepends=True):
        position += len(line)
        key, mark, value = line.partition(between)
        name = key.strip().lower().decode("latin-1")
        if not mark and not line.strip() and not last:
            return fields, position
        if mark:
            fields[name] = value.lstrip(b"=").strip().decode("latin-1")
        if last and name == last:
            return fields, position
    return fields, None if last or not fields else position


def _data(path: Path, name: str, inside: str) -> Path:
    if name == inside:
        return path
    named = PurePosixPath(name)
    if name.split(" ")[0].upper() == "LIST" or "%" in name:
        raise VolumeError(f"{path}: its voxels lie in many files; write it as one .nii.gz")
    if named.is_absolute() or ".." in named.parts or "\\" in name:
        raise VolumeError(f"{path}: its voxels lie in another folder ({name}); put them beside it")
    data = path.parent / named
    if not data.is_file():
        raise VolumeError(f"{path}: its voxels, {data.name}, are missing; copy that file, too")
    return data
