"""What a network makes of images before anything is scored: real ones, and turned about.

The passes of a network are proven on noise; a branch that its code takes at the target's own
intensities only would be missed there, and so would one that does not look at the image at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cte_dask.inference.device import rounding
from cte_dask.inference.graph.feature_path import Plain
from cte_dask.inference.graph.places import Core, inner_view
from cte_dask.inference.outputs import foreground
from cte_dask.inference.passes import Seen, alike, correlation

if TYPE_CHECKING:
    from cte_dask.inference.predictor import Predictor

__all__ = ["ignores_image", "shares_rightly"]

SHARED_TOLERANCE = 1e-3
"""Of the largest output: what the rounding of fused layers explains on any image."""

SAME_PLACES = 0.95
"""Correlation of the foreground of two images from which on it is that of no image."""


def shares_rightly(loaded: Predictor, seen: Seen) -> bool:
    """Tell whether the passes, as they are run, give what the whole network gives.

    Parameters
    ----------
    loaded
        The model.
    seen
        A batch of the target, see `cte_dask.inference.predictor.Predictor.sees`.
    """
    if loaded.passes.path is None or isinstance(loaded.passes.path, Plain):
        return True
    got, want, core = _quickly(loaded, seen.x), seen.output, loaded.passes.core
    if core is not None and loaded.core is not None:
        got, want = inner_view(got, core), inner_view(want, loaded.core)
    with loaded.arithmetic():
        tolerance = rounding(seen.x, float32=SHARED_TOLERANCE)
    return alike(got, want, tolerance)


def ignores_image(loaded: Predictor, seen: Seen) -> bool:
    """Tell whether the same places are foreground whatever the image shows.

    The image is turned over, and its voxels are shuffled: a prediction that depends on it changes
    with either.

    Parameters
    ----------
    loaded, seen
        As `shares_rightly` takes them; it has said yes.
    """
    x = seen.x
    generator = torch.Generator(x.device).manual_seed(0)
    places = torch.randperm(x[0, 0].numel(), generator=generator, device=x.device)
    shuffled = x.flatten(2)[..., places].reshape(x.shape)
    if torch.equal(shuffled, x):  # one value everywhere, of which there is no other view
        return False
    mask, core = _mask(loaded, seen.output, loaded.core), loaded.passes.core or loaded.core
    others = (_mask(loaded, _quickly(loaded, v), core) for v in (x.flip(-1, -2), shuffled))
    return all(correlation(mask, other) > SAME_PLACES for other in others)


def _quickly(loaded: Predictor, x: Tensor) -> Tensor:
    """Return the output of the unperturbed pass as it is run, cut to the core where it is."""
    with torch.inference_mode(), loaded.arithmetic():
        return next(iter(loaded.passes.run(x, [], core=loaded.passes.core)))


def _mask(loaded: Predictor, output: Tensor, core: Core | None) -> Tensor:
    """Return the foreground of the tiles in a batch."""
    wanted = loaded.spec.output
    with torch.inference_mode():
        maps = foreground(inner_view(output, core) if core else output, wanted)
    return maps.amax(dim=1) >= wanted.map_threshold
