"""Guides to viewers of the maps: a napari command, a Neuroglancer state and its link."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import fsspec

from cte_dask.results.provenance import shown_url
from cte_dask.storage.stores import is_remote
from cte_dask.volume.voxel_size import nanometres

if TYPE_CHECKING:
    from cte_dask.report.maps.placement import Placement

__all__ = ["BYTE_SHADER", "FRACTION_SHADER", "neuroglancer_state", "write_guides"]

PORT = 9000
SCREEN = 700
"""Pixels of the screen that the region fills."""
CLIENT = "https://neuroglancer-demo.appspot.com/#!"
SHADER = """#uicontrol float low slider(min=0, max=1, default=0.8)
#uicontrol float high slider(min=0, max=1, default=1)
void main() {
  float v = getDataValue();
  if (!(v >= 0.0)) { emitTransparent(); return; }
  emitRGB(colormapCubehelix(clamp((v - low) / max(high - low, 0.001), 0.0, 1.0)));
}
"""


_PLAIN = """void main() {
  float v = VALUE;
  if (!(v >= 0.0)) { emitTransparent(); return; }
  emitRGB(colormapCubehelix(clamp(v, 0.0, 1.0)));
}
"""
FRACTION_SHADER = _PLAIN.replace("VALUE", "getDataValue()")
BYTE_SHADER = _PLAIN.replace("VALUE", "toNormalized(getDataValue())")
"""`FRACTION_SHADER` draws numbers from 0 to 1, `BYTE_SHADER` draws bytes."""


def write_guides(
    maps: str,
    target: Mapping[str, Any],
    images: Mapping[str, str],
    place: Placement,
    *,
    bank: Mapping[str, str],
    intensity: Mapping[str, Any],
    target_url: str | None,
    maps_url: str | None,
) -> dict[str, Any]:
    """Write the guides to opening maps into the maps' folder.

    Parameters
    ----------
    maps
        Folder or URL of the maps.
    target
        The target, as ``experiment.yaml`` describes it.
    images
        Folder of each model's map, best model first.
    place
        Where tiles lie.
    bank
        Maps of what the bank sees: folder → shader.
    intensity
        Intensities of the target, as ``experiment.yaml`` records them.
    target_url, maps_url
        URLs at which a browser finds them; None for their own, or a local server's.

    Returns
    -------
    dict
        ``napari``, ``neuroglancer``, ``link``, ``notes``; see
        `cte_dask.report.maps.write_maps.write_maps`.
    """
    image = _image_url(target)
    served, notes = _served(image, maps, target_url, maps_url)
    state = neuroglancer_state(
        *served,
        images=images,
        bank=bank,
        place=place,
        shape=target["shape"],
        intensity=intensity,
    )
    link = CLIENT + quote(json.dumps(state, separators=(",", ":")))
    first = next(iter(images.values()), "")
    paths = [shown_url(image), f"{maps}/{first}"]
    napari = shlex.join(["napari", "--plugin", "napari-ome-zarr", *paths])
    texts = {
        "neuroglancer.json": json.dumps(state, indent=1) + "\n",
        "how-to-open.md": _guide(napari, link, notes),
    }
    for name, text in texts.items():
        with fsspec.open(f"{maps}/{name}", "w", encoding="utf-8") as file:
            file.write(text)
    links = {"napari": napari, "neuroglancer": f"{maps}/neuroglancer.json", "link": link}
    return {**links, "notes": notes}


def _image_url(target: Mapping[str, Any]) -> str:
    """Return the image around the run's array: viewers choose the level themselves."""
    parent = str(target["path"]).rpartition("/")[0]
    return f"{target['url']}/{parent}" if parent else str(target["url"])


def _served(
    image: str, maps: str, target_url: str | None, maps_url: str | None
) -> tuple[tuple[str, str], list[str]]:
    """Return the URLs of target and maps for a browser, and notes on how to serve them."""
    notes = []
    local = [p for p in (image, maps) if not is_remote(p)]
    # One server for both: its root is the folder that holds target and maps.
    root = os.path.commonpath([os.path.dirname(p) for p in local]) if local else ""
    urls = []
    for path, address in ((image, target_url), (maps, maps_url)):
        beside = f"http://127.0.0.1:{PORT}/{quote(os.path.relpath(path, root))}" if root else ""
        urls.append(address or (shown_url(path) if is_remote(path) else beside))
    if any(not is_remote(p) and not g for p, g in ((image, target_url), (maps, maps_url))):
        serve = shlex.join(["npx", "http-server", root, "-a", "127.0.0.1", "-p", str(PORT)])
        notes.append(f"Neuroglancer reads over HTTP; serve the files with: {serve} --cors")
    if target_url is None and shown_url(image) != image:
        notes.append("the target's URL holds credentials, left out here: give --target-url")
    return (urls[0], urls[1]), notes


def neuroglancer_state(
    target: str,
    maps: str,
    *,
    images: Mapping[str, str],
    bank: Mapping[str, str],
    place: Placement,
    shape: Sequence[int],
    intensity: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a Neuroglancer state: the target, and over it each model's map, the first visible.

    Parameters
    ----------
    target, maps
        URLs.
    images
        Folder of each model's map.
    bank
        Maps of what the bank sees: folder → shader.
    place
        Where tiles lie.
    shape
        Voxels of the region (z, y, x).
    intensity
        Its ``low`` and ``high`` are shown black and white.
    """
    contrast = {"normalized": {"range": [intensity["low"], intensity["high"]]}}
    # the formats that Neuroglancer has in common with us go by the same prefixes
    source = target if target.startswith(("n5://", "precomputed://")) else f"zarr://{target}"
    base = {"type": "image", "source": source, "name": "target"}
    shown = [(name, folder, SHADER) for name, folder in images.items()]
    shown += [(folder, folder, shader) for folder, shader in bank.items()]
    layers: list[dict[str, Any]] = [{**base, "shaderControls": contrast}]
    layers += [
        {
            "type": "image",
            "source": f"zarr3://{maps}/{folder}",
            "name": name,
            "shader": shader,
            "opacity": 0.4,
            "visible": number == 0,
        }
        for number, (name, folder, shader) in enumerate(shown)
    ]
    winner = {"type": "segmentation", "source": f"zarr3://{maps}/winner", "name": "winner"}
    return {
        "dimensions": _dimensions(place),
        "position": _centre(place, shape),
        "crossSectionScale": max(shape[1:]) / SCREEN,
        "layers": [*layers, {**winner, "visible": False}],
        "layout": "xy",
    }


def _dimensions(place: Placement) -> dict[str, list[Any]]:
    """Return the axes in metre, Neuroglancer's unit; an axis without a length has no unit."""
    dimensions: dict[str, list[Any]] = {}
    # Neuroglancer lists axes x, y, z; 12 digits drop the rounding of the conversion.
    for name, size, unit in list(zip("zyx", place.voxel, place.units, strict=True))[::-1]:
        length = nanometres(unit)
        dimensions[name] = (
            [1, ""] if length is None else [float(f"{size * length * 1e-9:.12g}"), "m"]
        )
    return dimensions


def _centre(place: Placement, shape: Sequence[int]) -> list[float]:
    """Return the centre of the region in voxels (x, y, z)."""
    axes = zip(place.translation, place.scale, place.voxel, shape, strict=True)
    # From the centre of the first tile back to that of the first voxel, then to the middle.
    return [(shift - (tile - v) / 2) / v + n / 2 for shift, tile, v, n in axes][::-1]


def _guide(napari: str, link: str, notes: list[str]) -> str:
    lines = [
        "# How to open these maps over their target",
        "",
        "In napari (with the plugin napari-ome-zarr):",
        "",
        f"    {napari}",
        "",
        *notes,
        "",
        f"In Neuroglancer: paste neuroglancer.json into its state editor, or open {link}",
    ]
    return "\n".join(lines) + "\n"
