"""ModelReport: what trying one model of a bank told."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ModelReport"]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """What one model turned out to be, or why it cannot be used.

    Parameters
    ----------
    name
        The model.
    ok
        Whether it can be ranked.
    reason
        Why not, in one line; empty when it can.
    input_shape, output_shape
        Of the tile that was run, (N, C, [z,] y, x).
    parameters
        Number of weights.
    bottleneck
        Layers that feature perturbation would touch; empty for a black box.
    halo
        Context per side (z, y, x), declared or measured.
    multiple
        What input extents must be a multiple of (z, y, x), declared or measured.
    greybox
        ``"grey box"``, or ``"black box: why"`` when only the input can be perturbed.
    notes
        What else a user should know.
    """

    name: str
    ok: bool
    reason: str = ""
    input_shape: Shape | None = None
    output_shape: Shape | None = None
    parameters: int | None = None
    bottleneck: tuple[str, ...] = ()
    halo: Shape | None = None
    multiple: Shape | None = None
    greybox: str = ""
    notes: tuple[str, ...] = ()
