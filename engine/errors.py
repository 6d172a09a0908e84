"""Errors that a user can act on: each message says what is wrong, where, and what to do.

Every error takes one message argument, so that it survives pickling between Ray processes, and
inherits from the built-in kind that callers would expect as well.
"""


class EngineError(Exception):
    """Base of everything the engine refuses on purpose."""


class ConfigError(EngineError, ValueError):
    """A setting is unknown, of the wrong type, or impossible together with another."""


class VolumeError(EngineError, ValueError):
    """A volume (image or mask) is malformed; names the file and the remedy."""


class LayoutError(EngineError, ValueError):
    """A data set folder does not have the layout it claims."""


class StoreError(EngineError, OSError):
    """Stored data is missing, damaged or cannot be written."""


class MalformedFileError(StoreError, ValueError):
    """A file is not what it should be: a pipe, too large, not UTF-8, not JSON, of another kind."""


class StoreUnreachableError(StoreError):
    """An object store does not answer: nothing is known about what it holds."""


class WeightsError(EngineError, ValueError):
    """Model weights are missing, of another architecture, or of an unsafe format."""


class SamplingError(EngineError, RuntimeError):
    """Sampling a volume went wrong (non-finite latents, for example)."""


class TrainingError(EngineError, RuntimeError):
    """Training cannot start or cannot go on."""


class RunError(EngineError, RuntimeError):
    """A run folder refuses the job (other configuration, another job at work, failed samples)."""


class ClusterLostError(RunError):
    """The Ray cluster, or all workers of a job, went away; what is done stays, the rest is not."""


def one_line(error: BaseException) -> str:
    """What an error says, fit for a terminal: one line, control characters spelled out.

    Messages quote file names and keys, which may hold anything.
    """
    text = str(error) or type(error).__name__
    return printable(" ".join(part.strip() for part in text.splitlines()))


def printable(text: str) -> str:
    r"""Text fit for a terminal: control characters and bytes that are not UTF-8 spelled out.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
