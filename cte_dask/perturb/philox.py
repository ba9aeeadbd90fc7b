"""Counter-based randomness: every draw is a pure function of a key and a coordinate.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3",
doi:10.1145/2063384.2063405) turns a counter of four words and a key of two into four random words.
Keys are made of the experiment's seed, the perturbation's name, the repeat, the tile's index (and
the layer, for features), so no draw depends on batch size, worker, order or device count.

Normals follow Box and Muller (1958, doi:10.1214/aoms/1177706645) with logarithm, sine and cosine as
short float32 polynomials. They are made of exactly rounded operations alone, so NumPy, Numba and
CUDA (compiled without fused multiply-add) agree in every bit.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from cte_dask.arrays import Array, namespace, numba_pays
from cte_dask.tiles import Shape

Key = tuple[int, int]
Words = npt.NDArray[np.uint32]

__all__ = ["Key", "key", "normal_field", "normals_by_formula", "philox4x32", "uniform"]

FORMULA_SECONDS = 5e-8
"""What NumPy takes for one normal."""
_UNIFORM = 1  # fourth counter word of uniforms; normal fields have 0 there


def key(seed: int, *identifiers: str | int) -> Key:
    """Return the Philox key of one draw.

    Parameters
    ----------
    seed
        The experiment's seed.
    *identifiers
        What the draw belongs to, such as perturbation name, repeat, tile index and layer. Text and
        numbers differ, and so do cuts: ``("a", "bc")`` is not ``("ab", "c")``.

    Returns
    -------
    tuple of int
        Two words of 32 bits: BLAKE2b (RFC 7693) of seed and identifiers.

    Raises
    ------
    TypeError
        If an identifier is neither text nor an integer.

    Examples
    --------
    >>> key(0, "gaussian:0.1", 0, 17) == key(0, "gaussian:0.1", 0, 17)
    True
    """
    digest = hashlib.blake2b(digest_size=8)
    for item in (seed, *identifiers):
        digest.update(_encoded(item))
    raw = digest.digest()
    return int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:], "little")


def philox4x32(counter: npt.ArrayLike, key: Key) -> Words:
    """Run Philox4x32-10.

    Parameters
    ----------
    counter
        Words of 32 bits, shape (..., 4).
    key
        Two words of 32 bits.

    Returns
    -------
    ndarray of uint32
        Four random words a counter, shape (..., 4).
    """
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, dtype=np.uint64), -1, 0)
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1 = (p1 >> half) ^ c1 ^ np.uint64(k0), p1 & low
        c2, c3 = (p0 >> half) ^ c3 ^ np.uint64(k1), p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def uniform(key: Key, n: int) -> npt.NDArray[np.float64]:
    """Draw uniform numbers.

    Parameters
    ----------
    key
        From `key`.
    n
        How many; the first m of n are the first m of any other count.

    Returns
    -------
    ndarray of float64, shape (n,)
        Multiples of 2**-53 in [0, 1).
    """
    counter = np.zeros((-(-n // 2), 4), dtype=np.uint64)
    counter[:, 0] = np.arange(len(counter))
    counter[:, 3] = _UNIFORM
    words = philox4x32(counter, key).reshape(-1, 2)[:n].astype(np.uint64)
    integers = (words[:, 0] << np.uint64(21)) | (words[:, 1] >> np.uint64(11))
    return integers * 2.0**-53


def normal_field(key: Key, start: Shape, stop: Shape, *, like: Array | None = None) -> Array:
    """Draw a field of standard normals, one a voxel.

    The value of a voxel depends on the key and on its own coordinate alone, so two frames of one
    tile, say for models with different halos, hold the same noise where they overlap.

    Parameters
    ----------
    key
        From `key`.
    start, stop
        Corners (z, y, x) of the field relative to the tile's first voxel; negative in a halo.
        `stop` is exclusive. Coordinates count modulo 2**32.
    like
        An array of the library, and on the device, that the field shall have; NumPy by default.

    Returns
    -------
    ndarray of float32, shape ``stop - start``
        Independent draws of N(0, 1); their magnitude is at most 6.7.

    Raises
    ------
    ValueError
        If `stop` is less than `start` along an axis.
    """
    shape = tuple(b - a for a, b in zip(start, stop, strict=True))
    if min(shape) < 0:
        raise ValueError(f"a field from {start} to {stop} (z, y, x) has a negative extent")
    if like is not None and namespace(like) is not np:
        from cte_dask.perturb import _cupy

        return _cupy.normals(key, start, shape)
    if not numba_pays(math.prod(shape) * FORMULA_SECONDS):
        return normals_by_formula(key, start, stop)
    from cte_dask.perturb import _numba

    field = np.empty(shape, dtype=np.float32)
    _numba.fill_normals(key, start, field)
    return field


def normals_by_formula(key: Key, start: Shape, stop: Shape) -> npt.NDArray[np.float32]:
    """Draw the field of `normal_field` in plain NumPy: the definition the kernels are held to.

    The counter (x // 4, y, z, 0) gives four words, for the four voxels of a run along x: the first
    two words make the first pair of normals, the last two the second.

    Parameters
    ----------
    key, start, stop
        As in `normal_field`.

    Returns
    -------
    ndarray of float32
        Of shape ``stop - start``.
    """
    first, last = start[2] // 4, -(-stop[2] // 4)
    axes = np.arange(start[0], stop[0]), np.arange(start[1], stop[1]), np.arange(first, last)
    z, y, x = np.meshgrid(*axes, indexing="ij")
    counter = np.stack([x, y, z, np.zeros_like(x)], axis=-1) & 0xFFFFFFFF
    words = philox4x32(counter, key).reshape(*x.shape, 2, 2)
    radius = _radius(words[..., 0])
    cosine, sine = _cos_sin(words[..., 1])
    rows = np.stack([radius * cosine, radius * sine], axis=-1)
    runs = rows.reshape(*x.shape[:2], 4 * x.shape[2])
    return runs[..., start[2] - 4 * first : stop[2] - 4 * first]


def _radius(word: Words) -> npt.NDArray[np.float32]:
    """Return sqrt(-2 ln u), u uniform in (0, 1]; ln m as the series of 2 artanh((m-1)/(m+1))."""
    u = ((word >> 1).astype(np.int32).astype(np.float32) + _f(0.5)) * _f(2.0**-31)
    shifted = u.view(np.int32) + np.int32(0x3F800000 - 0x3F3504F3)  # m in [sqrt(1/2), sqrt(2))
    exponent = ((shifted >> 23) - 127).astype(np.float32)
    m = ((shifted & 0x007FFFFF) + 0x3F3504F3).astype(np.int32).view(np.float32)
    s = (m - _f(1)) / (m + _f(1))
    p = _polynomial(s * s, 1 / 9, 1 / 7, 1 / 5, 1 / 3, 1)
    log = exponent * _f(0.6931471805599453) + (s + s) * p
    radius: npt.NDArray[np.float32] = np.sqrt(_f(-2) * log)
    return radius


def _cos_sin(word: Words) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return cos and sin of 2 pi word / 2**32: a quarter turn and Taylor series in the rest."""
    quarter = (word + np.uint32(0x20000000)) >> 30
    rest = (word - (quarter << 30)).view(np.int32)
    t = rest.astype(np.float32) * _f(6.283185307179586 * 2.0**-32)
    s = _polynomial(t * t, 1 / 362880, -1 / 5040, 1 / 120, -1 / 6, 1) * t
    c = _polynomial(t * t, -1 / 3628800, 1 / 40320, -1 / 720, 1 / 24, -1 / 2, 1)
    odd = (quarter & 1) != 0
    cosine, sine = np.where(odd, s, c), np.where(odd, c, s)
    cosine = np.where(((quarter + 1) & 2) != 0, -cosine, cosine)
    return cosine, np.where((quarter & 2) != 0, -sine, sine)


def _polynomial(x: Array, *coefficients: float) -> Array:
    """Horner's rule in float32, highest power first."""
    value: Array = _f(coefficients[0]) * x + _f(coefficients[1])
    for c in coefficients[2:]:
        value = value * x + _f(c)
    return value


def _f(value: float) -> Any:
    return np.float32(value)


def _encoded(item: object) -> bytes:
    if isinstance(item, str):
        body = b"s" + item.encode()
    elif isinstance(item, (int, np.integer)) and not isinstance(item, bool):
        body = b"i" + str(int(item)).encode()
    else:
        raise TypeError(f"a key is made of text and integers, not {item!r}")
    return len(body).to_bytes(8, "little") + body
