"""Simulates a fluorescence volume of cell nuclei, with its truth.

Nuclei are deformed ellipsoids in clusters, with chromatin texture, nucleoli and a brightness of
their own; small bright debris that is not a nucleus lies between them. A microscope then blurs,
dims with depth, adds haze, and counts photons. Everything is drawn from one seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cte_dask.tiles import Shape

__all__ = ["Microscope", "Specimen", "simulate_nuclei"]

Field = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Specimen:
    """The nuclei under the microscope; lengths in voxels of the plane.

    Parameters
    ----------
    diameter
        Typical diameter of a nucleus in the plane.
    anisotropy
        Depth of a voxel over its width.
    filling
        Fraction of the volume to fill with nuclei; placement may stop short of it.
    size_spread, brightness_spread
        Standard deviation of the natural logarithm of diameter and brightness.
    debris
        Number of bright specks per nucleus.
    """

    diameter: float = 24.0
    anisotropy: float = 3.0
    filling: float = 0.14
    size_spread: float = 0.18
    brightness_spread: float = 0.5
    debris: float = 0.3


@dataclass(frozen=True, slots=True)
class Microscope:
    """Optics, stain and camera that image the specimen; lengths in voxels.

    Parameters
    ----------
    focus, glare
        Standard deviations (z, y, x) of the sharp and of the wide part of the blur.
    glare_fraction
        Part of the light that goes into the wide blur at the surface; it doubles at the bottom.
    attenuation
        Natural logarithm of the loss of light from the first plane to the last.
    unevenness
        Natural logarithm of the ratio between well and badly stained regions.
    haze
        Light from everywhere, relative to a typical nucleus.
    photons
        Counts of a voxel inside a typical nucleus at the surface.
    read_noise, offset
        Standard deviation and mean of the camera's signal in the dark, in counts.
    """

    focus: tuple[float, float, float] = (0.8, 1.2, 1.2)
    glare: tuple[float, float, float] = (2.5, 7.0, 7.0)
    glare_fraction: float = 0.3
    attenuation: float = 0.7
    unevenness: float = 0.3
    haze: float = 0.4
    photons: float = 12.0
    read_noise: float = 4.0
    offset: float = 100.0


SPECIMEN = Specimen()
MICROSCOPE = Microscope()


def simulate_nuclei(
    shape: Shape = (32, 512, 512),
    *,
    seed: int = 0,
    specimen: Specimen = SPECIMEN,
    microscope: Microscope = MICROSCOPE,
) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
    """Simulate a volume of fluorescent nuclei.

    Parameters
    ----------
    shape
        Extent in voxels (z, y, x).
    seed
        Seed of everything random; it gives the same volume again with the same version of NumPy.
    specimen, microscope
        The nuclei, and the optics that image them.

    Returns
    -------
    image
        uint16 (z, y, x), camera counts.
    labels
        int32 (z, y, x): 0 outside the nuclei, 1..n inside, before any blur.

    Raises
    ------
    ValueError
        If an extent is below 1, or a parameter of the specimen is out of range.
    """
    _check(shape, specimen)
    rng = np.random.default_rng(seed)
    light = np.zeros(shape, np.float32)
    labels = np.zeros(shape, np.int32)
    texture = _texture(rng, shape, specimen)
    for number, nucleus in enumerate(_nuclei(rng, shape, specimen), start=1):
        _draw(nucleus, number, light=light, labels=labels, texture=texture)
    _scatter_debris(rng, light, round(specimen.debris * labels.max()), specimen.anisotropy)
    return _expose(rng, _blurred(light, microscope), microscope), labels


@dataclass(frozen=True, slots=True)
class _Nucleus:
    """An ellipsoid with a wavy surface; lengths in voxels of the plane."""

    centre: NDArray[np.float64]
    radii: NDArray[np.float64]
    axes: NDArray[np.float64]
    waves: NDArray[np.float64]
    phases: NDArray[np.float64]
    nucleoli: NDArray[np.float64]
    brightness: float
    anisotropy: float

    @property
    def reach(self) -> float:
        return float(self.radii.max()) * 1.33


def _nuclei(rng: np.random.Generator, shape: Shape, specimen: Specimen) -> Iterator[_Nucleus]:
    """Draw nuclei until the volume is filled, or no room is found for a long time."""
    # in voxels of the plane along all three axes, so that distances are true
    extent = np.array(shape) * (specimen.anisotropy, 1, 1)
    unfilled = specimen.filling * float(np.prod(extent))
    hubs = rng.uniform(0, 1, (max(3, round(unfilled / specimen.diameter**3 / 6)), 3)) * extent
    centres, sizes = np.zeros((0, 3)), np.zeros(0)
    failures = 0
    # some may touch, few overlap; 2000 misses in a row mean that there is no room left
    while unfilled > 0 and failures < 2000:
        nucleus = _nucleus(rng, _position(rng, hubs, extent, specimen.diameter), specimen)
        size = float(np.cbrt(nucleus.radii.prod()))
        gaps = np.linalg.norm(centres - nucleus.centre, axis=1) / (sizes + size)
        if gaps.size and gaps.min() < 0.9:
            failures += 1
            continue
        centres, sizes = np.vstack([centres, nucleus.centre]), np.append(sizes, size)
        unfilled -= 4 / 3 * np.pi * size**3
        yield nucleus


def _position(
    rng: np.random.Generator, hubs: NDArray[np.float64], extent: NDArray[np.float64], near: float
) -> NDArray[np.float64]:
    """Draw a position near a hub, or anywhere; positions become denser along x."""
    position = rng.uniform(0, 1, 3) * extent
    if rng.random() < 0.7:
        hub = hubs[int(len(hubs) * rng.random())]
        position = np.clip(hub + rng.normal(0, 1.2 * near, 3), 0, extent)
    if rng.random() > 0.35 + 0.65 * position[2] / extent[2]:
        position[2] = extent[2] - position[2]
    return position


def _nucleus(rng: np.random.Generator, centre: NDArray[np.float64], specimen: Specimen) -> _Nucleus:
    size = specimen.diameter / 2 * np.exp(specimen.size_spread * rng.standard_normal())
    stretch = np.exp(rng.normal(0, 0.16, 3)) * (0.85, 1.0, 1.0)
    # the Q of a random matrix: axes in a random orientation
    axes, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return _Nucleus(
        centre=centre,
        radii=size * stretch,
        axes=axes,
        waves=rng.normal(0, 1.6, (4, 3)),
        phases=rng.uniform(0, 2 * np.pi, 4),
        nucleoli=rng.normal(0, 0.3, (int(rng.integers(1, 4)), 3)),
        brightness=float(np.exp(specimen.brightness_spread * rng.standard_normal())),
        anisotropy=specimen.anisotropy,
    )


def _draw(
    nucleus: _Nucleus, number: int, *, light: Field, labels: NDArray[np.int32], texture: Field
) -> None:
    """Add one nucleus where no earlier one lies."""
    voxel = np.array((nucleus.anisotropy, 1.0, 1.0))
    low = np.maximum(np.floor((nucleus.centre - nucleus.reach) / voxel), 0).astype(int)
    high = np.ceil((nucleus.centre + nucleus.reach) / voxel).astype(int) + 1
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    grid = np.indices(labels[box].shape) + low[:, None, None, None]
    offset = grid * voxel[:, None, None, None] - nucleus.centre[:, None, None, None]
    # in the nucleus's own axes and radii, where its surface is nearly the unit sphere
    local = np.tensordot(nucleus.axes, offset, axes=1) / nucleus.radii[:, None, None, None]
    inside = (_radius(nucleus, local) < 1) & (labels[box] == 0)
    labels[box][inside] = number
    glow = nucleus.brightness * texture[box] * _nucleoli(nucleus, local)
    light[box][inside] = glow[inside]


def _radius(nucleus: _Nucleus, local: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance from the centre, 1 on the wavy surface."""
    distance = np.sqrt((local**2).sum(axis=0))
    direction = local / np.maximum(distance, 1e-6)
    phases = nucleus.phases[:, None, None, None]
    bumps = np.cos(np.tensordot(nucleus.waves, direction, axes=1) + phases).sum(axis=0)
    radius: NDArray[np.float64] = distance / (1 + 0.08 * bumps)
    return radius


def _nucleoli(nucleus: _Nucleus, local: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the brightness of the stain, which is dim inside the nucleoli."""
    shade = np.ones(local.shape[1:])
    for centre in nucleus.nucleoli:
        squared = ((local - centre[:, None, None, None]) ** 2).sum(axis=0)
        shade *= 1 - 0.45 * np.exp(-squared / (2 * 0.14**2))
    return shade


def _texture(rng: np.random.Generator, shape: Shape, specimen: Specimen) -> Field:
    """Return the texture of chromatin: smooth noise of two scales around 1."""
    texture = np.ones(shape, np.float32)
    for scale, strength in ((0.12, 0.16), (0.04, 0.14)):
        sigma = scale * specimen.diameter
        noise = rng.standard_normal(shape, dtype=np.float32)
        noise = ndimage.gaussian_filter(noise, (sigma / specimen.anisotropy, sigma, sigma))
        texture += strength * noise / max(float(noise.std()), 1e-6)
    return np.maximum(texture, 0.2)


def _scatter_debris(rng: np.random.Generator, light: Field, number: int, anisotropy: float) -> None:
    """Add small bright specks, which a good model does not segment."""
    for _ in range(number):
        radius = rng.uniform(1.5, 4.0)
        centre = rng.uniform(0, 1, 3) * light.shape
        reach = radius / np.array((anisotropy, 1, 1))
        low = np.maximum(np.floor(centre - reach), 0).astype(int)
        high = np.minimum(np.ceil(centre + reach) + 1, light.shape).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        places = np.indices(light[box].shape) + (low - centre)[:, None, None, None]
        ball = ((places / reach[:, None, None, None]) ** 2).sum(axis=0) < 1
        light[box] += ball * np.float32(rng.uniform(0.6, 2.0))


def _blurred(light: Field, microscope: Microscope) -> Field:
    """Mix a sharp and a wide blur; deeper planes get more of the wide one."""
    sharp = ndimage.gaussian_filter(light, microscope.focus)
    wide = ndimage.gaussian_filter(light, microscope.glare, truncate=3.0)
    depth = np.linspace(0, 1, light.shape[0], dtype=np.float32)[:, None, None]
    share = np.minimum(microscope.glare_fraction * (1 + depth), 1)
    blurred: Field = (1 - share) * sharp + share * wide
    return blurred


def _expose(rng: np.random.Generator, light: Field, microscope: Microscope) -> NDArray[np.uint16]:
    """Dim with depth, stain unevenly, add haze, count photons, read the camera."""
    depth = np.linspace(0, 1, light.shape[0], dtype=np.float32)[:, None, None]
    stain = np.exp(microscope.unevenness * (_smooth(rng, light.shape[1:]) - 0.5))
    haze = microscope.haze * (0.5 + _smooth(rng, light.shape[1:]))
    photons = microscope.photons * np.exp(-microscope.attenuation * depth) * (light * stain + haze)
    counts = rng.poisson(photons) + microscope.offset
    counts = counts + microscope.read_noise * rng.standard_normal(light.shape, dtype=np.float32)
    image: NDArray[np.uint16] = np.clip(np.rint(counts), 0, 65535).astype(np.uint16)
    return image


def _smooth(rng: np.random.Generator, plane: tuple[int, ...]) -> Field:
    """Draw a slowly varying plane with values from 0 to 1."""
    coarse = rng.uniform(0, 1, (4, 4)).astype(np.float32)
    coarse = (coarse - coarse.min()) / (coarse.max() - coarse.min())
    y, x = (np.linspace(0, 3, extent) for extent in plane)
    smooth: Field = ndimage.map_coordinates(coarse, np.meshgrid(y, x, indexing="ij"), order=3)
    return np.clip(smooth, 0, 1)


def _check(shape: Shape, specimen: Specimen) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape {shape}: give three extents (z, y, x) of at least 1 voxel")
    if specimen.diameter <= 0 or specimen.anisotropy <= 0 or not 0 <= specimen.filling < 0.5:
        raise ValueError(
            f"{specimen}: diameter and anisotropy are positive, filling is from 0 to below 0.5"
        )
