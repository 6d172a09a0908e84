"""What `models/` refuses. Knows nothing of files or architectures."""


class WeightsFileError(ValueError):
    """A weights folder cannot be used; the message names the file and the remedy."""
