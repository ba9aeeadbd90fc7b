"""Where inference runs and in which precision, by the names that users give."""

from __future__ import annotations

import torch

__all__ = ["dtype_of", "resolve_device"]

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def resolve_device(name: str) -> str:
    """Return ``"cpu"`` or ``"cuda"`` for ``auto``, ``cpu`` or ``cuda``.

    Raises
    ------
    ValueError
        If the name is unknown, or ``cuda`` is asked for where there is no GPU.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in {"cpu", "cuda"}:
        raise ValueError(f"device {name!r} is not one of auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' asked for, but torch sees no GPU; use --device cpu or auto")
    return name


def dtype_of(precision: str) -> torch.dtype:
    """Return the floating type of a precision; ``auto`` is float32.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    found: torch.dtype = getattr(torch, "float32" if precision == "auto" else precision)
    return found
