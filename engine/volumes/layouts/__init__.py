"""Data set folders -> which files make up which case. The first arrow of the data path.

`find.py` recognises the layout, a reader each (`nnunet`, `listed`, `folders`) lists it, `naming`
and `pairing` know file names, `description` reads `dataset.json`. Opens no volume.
"""

from engine.volumes.layouts.cases import CaseFiles, Listing, Split, check_case_id
from engine.volumes.layouts.find import Layout, find_cases, list_data_set

__all__ = [
    "CaseFiles",
    "Layout",
    "Listing",
    "Split",
    "check_case_id",
    "find_cases",
    "list_data_set",
]
