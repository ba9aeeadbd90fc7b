"""The report's gallery: a few typical tiles, predicted again with the run's own experiment.

Its pictures are PNG images as data URIs, so that the report stays one file.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cte_dask.errors import FOREIGN, reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.report.html.tile_summary import TileSummary
    from cte_dask.scoring.experiment import Candidate, Experiment
    from cte_dask.tiles import Shape, Tile
    from cte_dask.volume.statistics import IntensityStatistics

__all__ = ["COLOURS", "gallery", "png", "png_uri"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB = 0, 2  # colour types


def png(pixels: NDArray[np.uint8]) -> bytes:
    r"""Encode an image.

    Parameters
    ----------
    pixels
        uint8, (y, x) grey or (y, x, 3) red, green, blue.

    Returns
    -------
    bytes
        A PNG file (ISO/IEC 15948:2004), lossless.

    Raises
    ------
    ValueError
        If the array has another shape or element type.

    Examples
    --------
    >>> png(np.zeros((2, 3), np.uint8))[:4]
    b'\x89PNG'
    """
    if pixels.dtype != np.uint8 or pixels.shape[2:] not in ((), (3,)) or pixels.ndim < 2:
        raise ValueError(
            f"an image must be uint8 of shape (y, x) or (y, x, 3), not {pixels.dtype} of shape "
            f"{pixels.shape}"
        )
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1).astype(np.int16)
    step = 1 if pixels.ndim == 2 else 3
    # Filter 1, the difference to the pixel on the left: smooth images get a third smaller.
    rows[:, step:] -= rows[:, :-step].copy()
    # Differences are modulo 256, and each row begins with the number of its filter.
    filtered = np.insert((rows & 0xFF).astype(np.uint8), 0, 1, axis=1)
    kind = GREY if pixels.ndim == 2 else RGB
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    data = zlib.compress(filtered.tobytes(), 9)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """Return an image as ``data:image/png;base64,…``; see `png`."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode("ascii")


WHICH = ("best", "median", "worst")
LARGEST = 256
COLOURS = {"kept": (102, 102, 102), "lost": (86, 180, 233), "new": (240, 228, 66)}
"""Red, green, blue of foreground in both predictions, in the reference alone, in the perturbed
alone (Okabe & Ito 2008); they differ in lightness too."""


def gallery(
    run: str,
    summary: TileSummary,
    models: Sequence[str],
    *,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Predict the most, the median and the least consistent tile of some models again.

    Parameters
    ----------
    run
        Folder or URL of the run.
    summary
        The summary of its tiles.
    models
        Names of the models.
    tell
        Receives one line per model.

    Returns
    -------
    dict
        ``models``: per model its ``tiles`` or ``why`` there is none; or ``why`` alone if the target
        or the experiment cannot be opened. Images are data URIs; a 3D tile shows its plane of most
        disagreement.
    """
    from cte_dask.results.experiment_file import reopen

    try:
        experiment, note = _on_this_machine(reopen(run))
    except Exception as error:  # any store or package may fail: the report needs no gallery
        return {"why": reason(error), "models": []}
    entries = []
    for name in models:
        tell(f"predicting tiles of {name} again")
        try:
            entries.append({"name": name, "why": "", "tiles": _tiles(experiment, summary, name)})
        except FOREIGN as error:  # foreign code
            entries.append({"name": name, "why": reason(error), "tiles": []})
    return {"why": "", "note": note, "models": entries}


def _on_this_machine(experiment: Experiment) -> tuple[Experiment, str]:
    """Return the experiment on a device of this machine, and a note if that is another one."""
    from cte_dask.arrays import resolve_device

    device = resolve_device("auto")
    if experiment.device in ("cpu", device):
        return experiment, ""
    note = f"the run was made on {experiment.device}; these tiles are predicted on {device}"
    return replace(experiment, device=device, precision="float32"), note


def _tiles(experiment: Experiment, summary: TileSummary, name: str) -> list[dict[str, Any]]:
    candidate = next(c for c in experiment.candidates if c.name == name)
    # Blocks of one tile, so that nothing but the tile itself is read and predicted.
    single = replace(experiment, candidates=(candidate,), per_block=(1, 1, 1))
    return [
        _tile(single, candidate, which, *summary.typical[name][which])
        for which in WHICH
        if which in summary.typical[name]
    ]


def _tile(
    experiment: Experiment, candidate: Candidate, which: str, index: int, recorded: float
) -> dict[str, Any]:
    from cte_dask.perturb import Draw
    from cte_dask.scoring.score_block import predict_tiles

    # every model supports the perturbation of the score that tiles show
    shown = experiment.primary.perturbation
    draw = Draw(next(p for p in experiment.perturbations if p.name == shown), 0)
    # Blocks of `single` hold one tile each: a tile's number is its block's.
    prediction = next(iter(predict_tiles(experiment, index, [draw])))
    _, tile, maps = prediction
    masks = [m > candidate.spec.output.map_threshold for m in maps]
    plane = _plane(*masks)
    image = _scaled(experiment.intensity, experiment.volume.read(tile.start, tile.stop)[plane])
    shared, lost, new = (int(m.sum()) for m in _overlap_masks(*masks))
    return {
        "which": which,
        "index": index,
        "where": _where(tile, plane, experiment.volume.origin),
        "recorded": recorded,
        "again": _repeated_nhd(experiment, candidate, shared, shared + lost + new),
        "kept": shared,
        "lost": lost,
        "new": new,
        "image": png_uri(_quantised(_small(image))),
        "reference": png_uri(_quantised(_small(maps[0][plane]))),
        "perturbed": png_uri(_quantised(_small(maps[1][plane]))),
        "disagreement": png_uri(_overlay(image, *(m[plane] for m in masks))),
    }


def _repeated_nhd(
    experiment: Experiment, candidate: Candidate, shared: int, union: int
) -> float | None:
    """Return the NHD of the new predictions; None where the run did not record that number."""
    simple = experiment.primary.metric == "nhd" and experiment.repeats == 1
    return shared / union if simple and union and not candidate.spec.output.classes else None


def _overlap_masks(
    reference: NDArray[np.bool_], perturbed: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    return reference & perturbed, reference & ~perturbed, perturbed & ~reference


def _plane(reference: NDArray[np.bool_], perturbed: NDArray[np.bool_]) -> int:
    """Return the plane with most disagreement; among equal planes the one with most foreground."""
    differ = (reference ^ perturbed).sum(axis=(1, 2))
    union = (reference | perturbed).sum(axis=(1, 2))
    return int(np.lexsort((union, differ))[-1])


def _scaled(intensity: IntensityStatistics | None, image: NDArray[Any]) -> NDArray[np.float32]:
    """Return an image scaled to the target's low and high percentiles and clipped to [0, 1]."""
    if intensity is None:
        raise ValueError("the experiment holds no intensities of the target")
    low, high = intensity.low, intensity.high
    scaled = (np.asarray(image, np.float32) - low) / max(high - low, 1e-12)
    clipped: NDArray[np.float32] = np.clip(np.nan_to_num(scaled), 0, 1).astype(np.float32)
    return clipped


def _small(image: NDArray[Any]) -> NDArray[np.float32]:
    """Average an image down to at most `LARGEST` pixels a side."""
    step = -(-max(image.shape) // LARGEST)
    if step == 1:
        return image.astype(np.float32)
    # Whole blocks only; a side shorter than one block is averaged as it is.
    height, width = (n // step * step or n for n in image.shape)
    y, x = (min(step, n) for n in (height, width))
    blocks = image[:height, :width].reshape(height // y, y, width // x, x)
    means: NDArray[np.float32] = blocks.mean(axis=(1, 3), dtype=np.float32)
    return means


def _quantised(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return an image in 64 grey levels: finer noise would make up most of the file."""
    return (np.rint(np.clip(image, 0, 1) * 63) * 255 / 63).astype(np.uint8)


def _overlay(
    image: NDArray[np.float32], reference: NDArray[np.bool_], perturbed: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Return shared, lost and new foreground in colour on the dimmed image."""
    # 16 levels of at most 45 of 255: colours stand out, and the file stays small.
    dim = np.rint(_small(image) * 15) * 3
    pixels = np.repeat(dim[..., None], 3, axis=2)
    for name, mask in zip(COLOURS, _overlap_masks(reference, perturbed), strict=True):
        # More than one lost or new voxel in five is enough: averaging must not hide disagreement.
        voxels = _small(mask) > (0.5 if name == "kept" else 0.2)
        pixels[voxels] = COLOURS[name]
    return pixels.astype(np.uint8)


def _where(tile: Tile, plane: int, origin: Shape) -> str:
    (z0, y0, x0), (z1, y1, x1) = (
        tuple(a + o for a, o in zip(corner, origin, strict=True))
        for corner in (tile.start, tile.stop)
    )
    depth = f"z {z0 + plane}" + (f" of {z0}–{z1 - 1}" if z1 - z0 > 1 else "")
    return f"{depth}, y {y0}–{y1 - 1}, x {x0}–{x1 - 1}"
