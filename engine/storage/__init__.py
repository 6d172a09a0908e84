"""Local disks and object stores: places, whole files, locks, groups of arrays. Knows no case."""
