"""Forbids a process to write files outside of one folder, where the system can: Linux's Landlock.

A second line of defence: an untrusted model is refused before it runs if it is not known to compute
only (`cte_dask.models.formats`); should something be missed there, it still overwrites nothing.

The three system calls are made by hand. Of the libraries on PyPI none is kept: ``landlock`` has
had six development versions in four years and no release, ``py-landlock`` and ``landlockpy`` have
had a first version each. Source: https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["can_forbid_writes", "forbid_writes"]

# the same numbers on every architecture
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH, _NO_NEW_PRIVILEGES = 1, 1, 38

_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
_IN_FOLDERS = sum(1 << bit for bit in range(4, 13))
"""To remove a folder or file, and to make one of any kind."""
_RENAME = 1 << 13


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def can_forbid_writes() -> bool:
    """Tell whether this system can forbid a process to write files."""
    return _version() > 0


def forbid_writes(folder: Path) -> bool:
    """Forbid this thread, and all threads and processes it starts, to write outside of a folder.

    Files cannot be made, changed, renamed or removed; it cannot be taken back. Files that are open
    already stay open; temporary files go to `folder`. Not forbidden are reading, connections, and
    changing the modes and times of files.

    Parameters
    ----------
    folder
        Where writing stays allowed; ``/dev/null`` does, too.

    Returns
    -------
    bool
        False if this system cannot; then nothing is forbidden.

    Raises
    ------
    OSError
        If the system says that it can, and refuses.
    """
    version = _version()
    if version == 0:
        return False
    # what an older kernel does not know it cannot be told to forbid: it never allows renaming
    # between folders, and always truncating
    files = _WRITE_FILE | (_TRUNCATE if version >= 3 else 0)
    rights = files | _IN_FOLDERS | (_RENAME if version >= 2 else 0)
    handled = ctypes.c_uint64(rights)
    ruleset = _call(_CREATE_RULESET, ctypes.byref(handled), ctypes.c_size_t(8), ctypes.c_uint32(0))
    try:
        _allow(ruleset, folder, rights)
        _allow(ruleset, Path(os.devnull), files)
        _forbid_new_privileges()
        _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    return True


def _version() -> int:
    """Return the version of Landlock's interface, 0 where there is none."""
    if not sys.platform.startswith("linux"):
        return 0
    try:
        size, flag = ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG)
        return _call(_CREATE_RULESET, None, size, flag)
    except OSError:  # not built in, not switched on, or not allowed in this container
        return 0


def _allow(ruleset: int, path: Path, rights: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = ctypes.byref(_PathBeneath(rights, parent))
        kind, flags = ctypes.c_int(_PATH_BENEATH), ctypes.c_uint32(0)
        _call(_ADD_RULE, ctypes.c_int(ruleset), kind, rule, flags)
    finally:
        os.close(parent)


def _forbid_new_privileges() -> None:
    """Give up what a set-user-id program could gain, as Landlock demands."""
    zero = ctypes.c_ulong(0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(ctypes.c_int(_NO_NEW_PRIVILEGES), ctypes.c_ulong(1), zero, zero, zero) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _call(number: int, *arguments: Any) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
