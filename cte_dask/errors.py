"""Errors in one line, for a ledger, a report and a terminal; and the errors of a target.

`reason` and `cause` shorten any error, `warn_of_own` tells our mistakes from those of foreign
code; `VolumeError` and `VolumeReadError` say whether a target could not be opened or not be read.
"""

from __future__ import annotations

import threading
import warnings

__all__ = ["FOREIGN", "STOPPED", "VolumeError", "VolumeReadError", "cause", "reason", "warn_of_own"]

LONGEST = 400
FOREIGN = (Exception, SystemExit)
"""What a model's own code may raise: one that calls ``sys.exit`` ends itself, not the program."""
_MISTAKES = (NameError, AttributeError, TypeError, LookupError, AssertionError)
STOPPED = threading.Event()
"""Set by a signal that ends a command. The KeyboardInterrupt that it raises as well can be lost in
foreign code, such as a finaliser; whoever works for long looks here between two pieces of work."""


def reason(error: BaseException) -> str:
    """Return an error in one line, with its type where the text alone would puzzle.

    Examples
    --------
    >>> reason(ValueError("tile is too large"))
    'tile is too large'
    >>> reason(KeyError("weight"))
    "KeyError: 'weight'"
    """
    if isinstance(error, SystemExit):
        return f"its code called sys.exit({error.code!r})"
    text = " ".join(str(error).split())
    if not text or not _speaks_for_itself(error):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _speaks_for_itself(error: BaseException) -> bool:
    """Whether the message is one of ours, or the system's own words for a file that is missing."""
    ours = type(error).__module__.startswith("cte_dask")
    return ours or type(error) is ValueError or isinstance(error, OSError)


def warn_of_own(error: BaseException) -> None:
    """Warn of an error that is a mistake of this package, though foreign code is blamed for it.

    Parameters
    ----------
    error
        What was caught where a network's own code runs, and ours.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    ours = trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("cte_dask")
    if ours and isinstance(error, _MISTAKES):
        message = f"please report: {type(error).__name__}: {error}"
        warnings.warn(message, RuntimeWarning, stacklevel=3)


class VolumeError(ValueError):
    """The target (or its mask) cannot be opened: missing, not readable, or not what was asked.

    Parameters
    ----------
    problem
        What is wrong; the whole line where no remedy stands apart.
    remedy
        What to do, if one thing helps.
    details
        What is there to choose from.

    Examples
    --------
    >>> str(VolumeError("a.zarr holds 2 images", "name one, as a.zarr::raw", "there are raw, bg"))
    'a.zarr holds 2 images: name one, as a.zarr::raw; there are raw, bg'
    """

    def __init__(self, problem: str, remedy: str = "", details: str = "") -> None:
        # what to do comes first: a long line may be cut
        line = f"{problem}: {remedy}" if remedy else problem
        super().__init__(f"{line}; {details}" if details else line)
        self.problem, self.remedy, self.details = problem, remedy, details


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
