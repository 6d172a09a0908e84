"""Who works on a folder: locks on disks and in object stores, and who holds them."""
