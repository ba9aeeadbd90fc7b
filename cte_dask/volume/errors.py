"""What can go wrong with a target, in one line each."""

from __future__ import annotations

__all__ = ["VolumeError", "VolumeReadError", "cause"]


class VolumeError(ValueError):
    """The target (or its mask) cannot be opened: missing, not readable, or not what was asked."""


class VolumeReadError(OSError):
    """Stored voxels that should be there cannot be read; never replaced by a fill value."""


def cause(error: BaseException) -> str:
    r"""Return an exception as one line of text, its type's name when it carries no message.

    Examples
    --------
    >>> cause(ValueError("two\nlines"))
    'two lines'
    >>> cause(KeyError())
    'KeyError'
    """
    return " ".join(str(error).split()) or type(error).__name__
