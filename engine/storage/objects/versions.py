"""Whether a bucket keeps older versions of objects: then what is deleted there is not gone.

Knows no run.
"""

from __future__ import annotations

from engine.errors import StoreError
from engine.storage.objects.client import call
from engine.storage.objects.path import ObjectPath

_KEEPING = ("Enabled", "Suspended")  # versions from before it was suspended stay, too


def keeps_versions(place: ObjectPath) -> bool | None:
    """Whether the bucket of a place keeps older versions of its objects.

    Returns:
        None where the store does not say, or may not be asked.
    """
    bucket = place.url.partition("://")[2].partition("/")[0]
    try:
        answer = call(
            place.url, lambda store: store.call_s3("get_bucket_versioning", Bucket=bucket)
        )
    except (StoreError, FileNotFoundError):
        return None
    return str(answer.get("Status", "")) in _KEEPING
