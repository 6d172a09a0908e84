"""What can be done with a place, on a disk (`local.py`) and in an object store (`objects.py`).

Both keep one protocol (`protocol.py`) and pass one suite of tests (`tests/storage/
test_storage_contract.py`). `find.py` is the one place that asks of which kind a place is.
"""
