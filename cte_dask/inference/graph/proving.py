"""Proving that a split network is the plain one, and finding the form that it runs fastest in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cte_dask.inference.graph.crop_to_core import Core, Reach, find_crop, find_reach, inner_view
from cte_dask.inference.graph.fold_and_fuse import fused
from cte_dask.inference.graph.merge_upsampling import merge_upsampling
from cte_dask.inference.graph.paths import Form, Split
from cte_dask.inference.graph.skip_once import halved
from cte_dask.inference.graph.trace_cache import Key, keep_recipes, refilled

__all__ = [
    "DIFFERS",
    "FUSED_TOLERANCE",
    "Proven",
    "faster",
    "formed",
    "is_same",
    "other_input",
    "prove",
]

DIFFERS = "the split network differs from the plain one"
FUSED_TOLERANCE = 1e-4
"""How far a fused network may be off, as a part of its largest output."""


@dataclass(frozen=True, slots=True)
class Proven:
    """A split that equals the plain pass, and what it gave for one batch and masks."""

    split: Split
    x: Tensor
    masks: list[Tensor]
    state: tuple[Tensor, ...]
    output: Tensor


def prove(
    split: Split,
    x: Tensor,
    masks: list[Tensor],
    want: Tensor,
    *,
    plain: Callable[[Tensor, Sequence[Tensor]], Tensor],
) -> Proven:
    """Compare a cut graph with the plain pass; the second decode catches a spoilt state."""
    with torch.no_grad():
        state = split.encode(x)
        for _ in range(2):
            _require_equal(got := split.decode(state, masks), want)
        # a number that the trace holds fast was right for the input it was traced with alone
        other = other_input(x)
        _require_equal(split.run(other, masks), plain(other, masks))
    return Proven(split, x, masks, state, got)


def other_input(x: Tensor) -> Tensor:
    """Return a second input: other values at other places."""
    return 0.3 * x.flip(-1) + 0.5


def _require_equal(got: Tensor, want: Tensor) -> None:
    if not torch.equal(got, want) and not torch.allclose(got, want, rtol=1e-5, atol=1e-6):
        raise ValueError(DIFFERS)


def faster(proven: Proven, core: Core | None) -> tuple[Split, Reach | None]:
    """Fuse a split and cut it to the core, as far as its results differ by rounding alone.

    How far its state reaches is returned, too; None if it is not cut, for whatever core.
    """
    split, x = proven.split, proven.x
    with torch.no_grad():
        crop = reach = None
        if core is not None:
            arguments = split.suffix, proven.state, proven.masks
            reach = find_reach(*arguments)
            crop = find_crop(*arguments, core, reach)
        quick = _fused(split, x.device)
        forms = (form for form in (_halved(quick), quick) if form is not None)
        candidates = (
            replace(f, crop=c) for f in forms for c in ((crop, None) if crop else (None,))
        )
        path = next((f for f in candidates if _fits(f, proven, core)), split)
    # a cut that did not fit is tried for no other core
    return path, reach if path.crop == crop else None


def _fits(split: Split, proven: Proven, core: Core | None) -> bool:
    x, masks, want = proven.x, proven.masks, proven.output
    if not is_same(split, x, masks, want):
        return False
    return split.crop is None or is_same(split, x, masks, want, core=core)


def formed(split: Split, form: Form, device: torch.device, *, key: Key = None) -> Split:
    """Return a split in a form that was found for its architecture.

    Parameters
    ----------
    split
        The trace, filled with weights.
    form
        The form.
    device
        Where it runs.
    key
        Of the trace, see `cte_dask.inference.graph.trace_cache.recall`: what was done to the graph
        for one network is not done again for the next.

    Raises
    ------
    ValueError
        If its graph does not take that form.
    """
    if form.kind == "split":
        return split
    path = refilled(key, form.kind, split)
    if path is None:
        path = _fused(split, device)
        if form.kind == "once":
            path = _halved(path)
        if path is None:
            raise ValueError(f"no convolution over a skip in the form {form.kind!r}")
        keep_recipes(key, path)
    return replace(path, crop=form.crop)


def _fused(split: Split, device: torch.device) -> Split:
    """Return a split with its norms folded and its activations fused."""
    prefix, suffix = (fused(half, device) for half in (split.prefix, split.suffix))
    for half in (prefix, suffix):
        merge_upsampling(half)
    return replace(split, prefix=prefix, suffix=suffix, traced=(split.prefix, split.suffix))


def _halved(split: Split) -> Split | None:
    """Return a split with half of its convolutions over skips run once; None if it has none."""
    halves = halved(split.suffix)
    if halves is None:
        return None
    once, suffix = halves
    merge_upsampling(suffix, once)
    return replace(split, once=once, suffix=suffix)


def is_same(
    path: Split, x: Tensor, masks: Sequence[Tensor], want: Tensor, *, core: Core | None = None
) -> bool:
    """Tell whether a path gives what is wanted, in the core if it is cut to that."""
    # rounding grows with the size of the sums, not of each result
    tolerance = FUSED_TOLERANCE * float(want.abs().max())
    cropped = core is not None and path.crop is not None
    try:
        got = path.run(x, masks, cropped=cropped)
    except RuntimeError:  # a graph that holds the extents it was traced with
        return False
    if core is not None and path.crop is not None:
        got, want = inner_view(got, path.crop.core), inner_view(want, core)
    return got.shape == want.shape and float((got - want).abs().max()) <= tolerance
