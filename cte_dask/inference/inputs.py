"""Images of tiles: perturbed as asked, preprocessed, laid out as a network's samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cte_dask.arrays import from_torch, namespace, to_torch
from cte_dask.inference.outputs import resized
from cte_dask.models.preprocessing import preprocess
from cte_dask.perturb.geometric import Warp, unmoved
from cte_dask.perturb.input import CANONICAL_PERCENTILES, perturb_raw

if TYPE_CHECKING:
    from cte_dask.models.spec import ModelSpec
    from cte_dask.perturb.draw import Draw
    from cte_dask.perturb.views import View
    from cte_dask.tiles import Tile
    from cte_dask.volume.statistics import IntensityStatistics

__all__ = ["Around", "Given", "perturbed", "samples"]

Around = Callable[["View"], Any]


@dataclass(frozen=True, slots=True)
class Given:
    """Some tiles of the target, as the passes of one model read them.

    Parameters
    ----------
    frames
        Raw intensities of the tiles' frames, float32 (T, z, y, x), NumPy or CuPy.
    tiles
        The T tiles.
    intensity
        Intensity statistics of the whole target, raw units.
    seed
        Seed of the experiment.
    around
        Gives the boxes of another view of the tiles, as `frames`; None if there is no other.
    """

    frames: Any
    tiles: Sequence[Tile]
    intensity: IntensityStatistics
    seed: int
    around: Around | None = None


def perturbed(given: Given, draw: Draw, *, plain: View, view: View) -> tuple[Any, Warp]:
    """Return the images of an input perturbation, and how its predictions come back.

    Parameters
    ----------
    given
        The tiles.
    draw
        A run perturbed in input space.
    plain, view
        What is read without the perturbation, and with it.

    Raises
    ------
    ValueError
        If `view` lies elsewhere than the frames and `given` cannot tell what is there.
    """
    kind = draw.perturbation
    if not kind.geometric:
        return _with_values_changed(given, draw, plain), unmoved(plain)
    frames = given.frames
    if view.box != plain.box:
        if given.around is None:
            raise ValueError(f"{kind.name!r} reads other boxes than the frames: give them")
        frames = given.around(view)
    keys = [draw.key(given.seed, tile) for tile in given.tiles]
    warp: Warp = kind.load()(view, kind.strength, keys)
    device = "cpu" if namespace(frames).__name__ == "numpy" else "cuda"
    return from_torch(warp.image(to_torch(frames, device)).contiguous()), warp


def _with_values_changed(given: Given, draw: Draw, view: View) -> Any:
    low, high = (given.intensity.percentile(q) for q in CANONICAL_PERCENTILES)
    z, y, x = view.before
    changed = []
    for frame, tile in zip(given.frames, given.tiles, strict=True):
        core = tuple(slice(b, b + t) for b, t in zip(view.before, tile.shape, strict=True))
        where: dict[str, Any] = {"key": draw.key(given.seed, tile), "start": (-z, -y, -x)}
        where |= {"low": low, "high": high, "core": core}
        changed.append(perturb_raw(draw.perturbation, frame, **where))
    return namespace(given.frames).stack(changed)


def samples(
    frames: Any, spec: ModelSpec, *, view: View, intensity: IntensityStatistics, like: Tensor
) -> Tensor:
    """Preprocess frames and lay them out as network samples.

    Parameters
    ----------
    frames
        On the grid of the view's frame, float32 (T, z, y, x).
    spec
        The model.
    view
        What the network sees.
    intensity
        Intensity statistics of the whole target, raw units.
    like
        Gives device and dtype.

    Returns
    -------
    Tensor
        (S, C, [z,] y, x): planes of a 2D model are samples, its channels all alike.
    """
    # a 2D model's image is one plane, also for statistics of scope tile
    units = frames.reshape(-1, *frames.shape[-spec.dims :])
    steps = spec.preprocessing
    ready = namespace(frames).stack([preprocess(u, steps, intensity) for u in units])
    x = to_torch(ready, like.device).to(like.dtype)[:, None]
    x = resized(x, view.frame.extent)
    return x.expand(-1, spec.in_channels, *x.shape[2:]).contiguous()
