"""File names of volumes: their endings, the case ids in front of them, and channel numbers.

Endings are compared in any case (`.NII.GZ`). A file that looks like an image and cannot be read is
never passed over: it is listed with what to do about it. Opens no file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import LayoutError
from engine.volumes.layouts.cases import check_case_id

NIFTI_ENDINGS = (".nii.gz", ".nii")
ITK_ENDINGS = (".seg.nrrd", ".nrrd", ".nhdr", ".mha", ".mhd")
ENDINGS = (*NIFTI_ENDINGS, *ITK_ENDINGS)

_CHANNEL = re.compile(r"(.+)_(\d{4})")
_ROLE = r"(?:images?|img|volume|vol|scan|labels?|segmentation|seg|masks?|gt)"
_AROUND = re.compile(rf"^{_ROLE}[-_.]?(?=.)|(?<=.)[-_.]?{_ROLE}$", re.IGNORECASE)
_DATA_OF = {".raw": (".mhd", ".nhdr"), ".zraw": (".mhd",), ".raw.gz": (".nhdr",)}
_TEXTS = (".txt", ".md", ".rst", ".pdf", ".docx", ".html", ".log", ".py", ".sh", ".ipynb")
_TABLES = (".json", ".csv", ".tsv", ".xls", ".xlsx", ".xml", ".yaml", ".yml", ".ini", ".db")
_NO_IMAGES = frozenset((*_TEXTS, *_TABLES, ".bval", ".bvec", ".md5", ".sha256"))
_REMEDIES = {
    ".dcm": "DICOM: convert the series to .nii.gz (dcm2niix)",
    ".npz": "a preprocessed array: give the raw data set's .nii.gz",
    ".npy": "an array without a grid: give the raw data set's .nii.gz",
    ".b2nd": "a preprocessed array: give the raw data set's .nii.gz",
    ".pkl": "a pickle, never opened: give the raw data set's .nii.gz",
    ".hdr": "half of an .img/.hdr pair: convert it to a single .nii.gz (nib.save does)",
    ".img": "half of an .img/.hdr pair: convert it to a single .nii.gz (nib.save does)",
    ".mgz": "FreeSurfer's format: convert it to .nii.gz (mri_convert)",
    ".mgh": "FreeSurfer's format: convert it to .nii.gz (mri_convert)",
    ".mnc": "MINC: convert it to .nii.gz (mnc2nii)",
    ".png": "a 2D picture: stack the slices into a .nii.gz",
    ".jpg": "a 2D picture: stack the slices into a .nii.gz",
    ".part": "an unfinished copy or download: finish it, or remove it",
    ".tmp": "an unfinished copy or download: finish it, or remove it",
    ".crdownload": "an unfinished download: finish it, or remove it",
    ".zip": "an archive: unpack it",
    ".tar": "an archive: unpack it",
    ".tgz": "an archive: unpack it",
}


@dataclass(frozen=True)
class Folder:
    """The volumes of one folder.

    Attributes:
        path: of the folder, which need not exist.
        files: by name without ending.
        unread: file or folder name -> why it is not read, and what to do.
    """

    path: Path
    files: dict[str, Path] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    def unread_of(self, case_id: str) -> str | None:
        """A file of a case that is there and cannot be read, with the reason."""
        for name, reason in self.unread.items():
            stem = name.rpartition(".")[0].removesuffix(".nii") or name
            if case_id in (stem, split_channel(stem)[0]):
                return f"{self.path / name}: {reason}"
        return None


def list_folder(path: Path) -> Folder:
    """Look through a folder; hidden files and texts are passed over.

    Raises:
        LayoutError: two files have one name but for the ending, or a name is refused.
    """
    folder = Folder(path)
    names = {file.name for file in path.iterdir()} if path.is_dir() else set()
    for name in sorted(names):
        file = path / name
        if name.startswith(".") or _is_text(name) or _is_data(name, names):
            continue
        parts = None if file.is_dir() or _is_broken(file) else split_name(name)
        if parts is None:
            folder.unread[name] = _reason(file)
            continue
        case_id = check_case_id(parts[0], file)
        if case_id in folder.files:
            raise LayoutError(
                f"{file}: duplicate case id {case_id}, also {folder.files[case_id].name}; "
                "remove one"
            )
        folder.files[case_id] = file
    return folder


def subfolder(root: Path, name: str) -> Path:
    """A folder of a data set, its name compared in any case; as asked for where there is none."""
    if (root / name).is_dir() or not root.is_dir():
        return root / name
    found = [p for p in sorted(root.iterdir()) if p.name.lower() == name.lower() and p.is_dir()]
    return found[0] if found else root / name


def split_name(name: str) -> tuple[str, str] | None:
    """Name without ending, and the ending in lower case; None for what is not read.

    >>> split_name("pat1_0000.NII.GZ")
    ('pat1_0000', '.nii.gz')
    """
    lower = name.lower()
    for ending in ENDINGS:
        if lower.endswith(ending):
            return name[: -len(ending)], ending
    return None


def split_channel(stem: str) -> tuple[str, int | None]:
    """nnU-Net's channel number behind a name, if there is one.

    >>> split_channel("pat1_0002")
    ('pat1', 2)
    """
    match = _CHANNEL.fullmatch(stem)
    return (match[1], int(match[2])) if match else (stem, None)


def without_role(stem: str) -> str:
    """A name without the word that says whether it is an image or a mask.

    >>> without_role("segmentation-12"), without_role("img0001"), without_role("pat7_seg")
    ('12', '0001', 'pat7')
    """
    return _AROUND.sub("", stem)


def unread_reason(name: str) -> str:
    """Why a file of another ending is not read, and what to do."""
    ending = Path(name.lower()).suffix
    return _REMEDIES.get(ending, f"{ending or 'no ending'}: not read; convert it to .nii.gz")


def _reason(file: Path) -> str:
    if _is_broken(file):
        return (
            "a link whose target is missing: get it (`datalad get`, `git annex get`), or restore it"
        )
    if file.is_dir():
        return "a folder among the volumes: convert what it holds to one .nii.gz, or move it away"
    return unread_reason(file.name)


def _is_broken(file: Path) -> bool:
    """A link to nowhere, as DataLad leaves for files that were not fetched."""
    return file.is_symlink() and not file.exists()


def _is_text(name: str) -> bool:
    return Path(name.lower()).suffix in _NO_IMAGES or name.upper() in ("LICENSE", "README")


def _is_data(name: str, names: set[str]) -> bool:
    """Whether a file holds the voxels of a header beside it."""
    for ending, headers in _DATA_OF.items():
        if name.lower().endswith(ending):
            return any(name[: -len(ending)] + header in names for header in headers)
    return False
