"""What a run folder holds.

Plan, identity, commits, attempts, progress; the same on disks and object stores.
"""
