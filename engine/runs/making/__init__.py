"""One plan row to one committed volume, inside a worker."""
