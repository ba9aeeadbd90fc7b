"""The consistency kernels against the formulas of the paper in NumPy, on maps in memory.

    python benchmarks/kernels.py [--repeats 15]

As they are called: the formulas for one tile after the other, the kernel for a batch of tiles (2 M
voxels in all). Both metrics together: NHD = 1 - |A xor B| / |U| and EI = sum of sqrt(p p') over A
and B, over |U|. V^Rand from labels against a contingency table by `numpy.unique`. Writes
``benchmarks/results/kernels.json``.
"""

from __future__ import annotations

import argparse

import numpy as np
from measuring import alternated, ratio, save
from scipy.ndimage import gaussian_filter, label

from cte_dask.consistency.binary import binary_agreement, binary_agreement_batch
from cte_dask.consistency.instance import v_rand

EXTENTS = {"256 x 256": (1, 256, 256), "64 x 128 x 128": (64, 128, 128)}


def maps(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Two smooth probability maps that differ a little."""
    draw = np.random.default_rng(0)
    smooth = gaussian_filter(draw.standard_normal(shape), (0, 4, 4))
    other = smooth + 0.1 * gaussian_filter(draw.standard_normal(shape), (0, 2, 2))
    return tuple(
        (1 / (1 + np.exp(-8 * m / smooth.std()))).astype(np.float32) for m in (smooth, other)
    )


def by_formula(p: np.ndarray, q: np.ndarray) -> tuple[float, float]:
    """The metrics, each as it is written down, as the authors compute them."""
    a, b = p > 0.5, q > 0.5
    union = np.logical_or(a, b)
    hard = 1 - np.logical_xor(a, b).sum() / union.sum()
    both = np.logical_and(a, b)
    soft = (np.sqrt(p * q) * both).sum() / union.sum()
    return float(hard), float(soft)


def pairs_by_unique(s: np.ndarray, t: np.ndarray) -> float:
    """V^Rand in pair form over the foreground union, background voxels objects of their own."""
    union = (s > 0) | (t > 0)
    n = union.sum()
    table = np.stack([s[union], t[union]])
    both = table[:, (table > 0).all(axis=0)]
    c = np.unique(both, axis=1, return_counts=True)[1].astype(float)
    lone = (table > 0).sum() - 2 * both.shape[1]
    cells = n - both.shape[1]  # voxels paired with background: cells of one
    sizes = [np.unique(x[x > 0], return_counts=True)[1].astype(float) for x in table]
    empty = [(x == 0).sum() for x in table]
    assert lone == cells
    pairs = [(size**2).sum() + none - n for size, none in zip(sizes, empty, strict=True)]
    return float(((c**2).sum() + cells - n) / (0.5 * pairs[0] + 0.5 * pairs[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    cases, ratios = {}, {}
    for name, shape in EXTENTS.items():
        p, q = maps(shape)
        s, t = label(q > 0.5)[0].astype(np.int32), label(p > 0.5)[0].astype(np.int32)
        batch = [np.stack([m] * max(1, 2**21 // p.size)) for m in (p, q)]
        scores, want = binary_agreement(p, q), by_formula(p, q)
        np.testing.assert_allclose((scores.nhd, scores.ei), want, rtol=1e-5)
        np.testing.assert_allclose(v_rand(t, s), pairs_by_unique(s, t), rtol=1e-9)
        forms = {
            "NHD and EI, NumPy": lambda b=batch: [
                by_formula(p, q) for p, q in zip(*b, strict=True)
            ],
            "NHD and EI": lambda p=batch[0], q=batch[1]: binary_agreement_batch(p, q),
        }
        labels = {
            "V^Rand, NumPy": lambda s=s, t=t: pairs_by_unique(s, t),
            "V^Rand": lambda s=s, t=t: v_rand(t, s),
        }
        cases[name] = alternated(forms, options.repeats) | alternated(labels, options.repeats)
        for kernel in ("NHD and EI", "V^Rand"):
            ratios[f"{name}: NumPy / {kernel}"] = ratio(cases[name], f"{kernel}, NumPy", kernel)
    save("kernels", {"cases": cases, "ratios": ratios})


if __name__ == "__main__":
    main()
