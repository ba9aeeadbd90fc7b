"""What the bank says of its networks without labels, and what labels say: one record a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from errors import shared_errors
from images import Images, Target
from ordering import estimation, labels_order, ordering
from predictions import PERTURBATIONS, REFERENCE, SEED, Masks

from cte_dask.consistency.accuracy import f1
from cte_dask.consistency.binary import binary_agreement
from cte_dask.consistency.degenerate import degenerate, flag
from cte_dask.consistency.vote_patterns import VoteTables, packed, vote_tables
from cte_dask.ranking.ballot import ballot_of
from cte_dask.ranking.latent_truth import fit_truth

__all__ = ["record_of"]

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.bool_]

SCHEMA = "cte-vessels/1"
MOST_PATTERNS = 2**16
"""So many that no image is looked at on a lattice: an image has a hundred thousand pixels."""

DROPOUT, MIRROR, NOISE, _ = PERTURBATIONS
NAMES = {"CTE, dropout": DROPOUT, "CTE, noise": NOISE, "CTE, mirror": MIRROR}


def record_of(target: Target, images: Images, bank: Sequence[Masks]) -> dict[str, Any]:
    """Measure the networks of a bank on a target.

    Parameters
    ----------
    target, images
        The target; labels are read for F1 alone.
    bank
        The predictions of each network.

    Returns
    -------
    dict
        ``models``, each with what was estimated and what labels say; ``scores``, how well each of
        `ordering.SCORES` orders them; ``labels``, how much of an order they know; ``estimated_f1``,
        how far it is off; ``shared_errors``.
    """
    reference = [_within(masks, images, REFERENCE) for masks in bank]
    usable = np.array([not _is_degenerate(own) for own in reference])
    chosen = np.flatnonzero(usable).tolist()
    voters = [reference[j] for j in chosen]
    tiles = {
        **_witnessed(voters),
        **_consistencies([bank[j] for j in chosen], images, voters),
    }
    drawn = [label[view] for label, view in zip(images.label, images.view, strict=True)]
    truth = np.array([[f1(*pair) for pair in zip(own, drawn, strict=True)] for own in reference])
    foreign = np.array([masks.network.trained_on != target.data for masks in bank])
    models = [
        {
            "name": masks.network.name,
            "trained_on": masks.network.trained_on,
            **_described(own),
            "f1": float(np.median(truth[j])),
            **{name: _typical(values, chosen, j) for name, values in tiles.items()},
        }
        for j, (masks, own) in enumerate(zip(bank, reference, strict=True))
    ]
    return {
        "schema": SCHEMA,
        "target": {**asdict(target), "images": len(images)},
        "perturbations": list(PERTURBATIONS),
        "seed": SEED,
        "models": models,
        "scores": ordering(tiles, truth, usable=usable, foreign=foreign, seed=SEED),
        "labels": labels_order(truth, usable, seed=SEED),
        "estimated_f1": estimation(tiles, truth, usable),
        "shared_errors": shared_errors(voters, drawn),
    }


def _within(masks: Masks, images: Images, perturbation: str) -> list[Pixels]:
    """Return the foreground within the field of view of each image, bool (pixel,)."""
    return [masks.get(i, perturbation)[view] for i, view in enumerate(images.view)]


def _counts(own: Sequence[Pixels]) -> tuple[Floats, Floats]:
    return (
        np.array([mask.sum() for mask in own], np.float64),
        np.array([mask.size for mask in own], np.float64),
    )


def _is_degenerate(own: Sequence[Pixels]) -> bool:
    return degenerate(*_counts(own))


def _described(own: Sequence[Pixels]) -> dict[str, Any]:
    """Return what a ranking says of a model's foreground."""
    foreground, pixels = _counts(own)
    fraction = float(np.median(foreground / pixels))
    flags = flag(len(own), float((foreground == 0).mean()), fraction)
    return {"foreground_fraction": fraction, "flags": list(flags)}


def _typical(values: Floats, chosen: Sequence[int], model: int) -> float | None:
    """Return a model's median over images; None where it is not usable."""
    return float(np.nanmedian(values[chosen.index(model)])) if model in chosen else None


def _consistencies(
    bank: Sequence[Masks], images: Images, reference: Sequence[Sequence[Pixels]]
) -> dict[str, Floats]:
    """Return the NHD of each network on each image, (model, tile), and the mean of all."""
    nhd = {
        perturbation: np.array(
            [
                [_nhd(*pair) for pair in zip(own, _within(m, images, perturbation), strict=True)]
                for m, own in zip(bank, reference, strict=True)
            ]
        )
        for perturbation in PERTURBATIONS
    }
    several: Floats = np.nanmean(list(nhd.values()), axis=0)
    return {**{name: nhd[p] for name, p in NAMES.items()}, "CTE, several": several}


def _nhd(reference: Pixels, perturbed: Pixels) -> float:
    return binary_agreement(reference.astype(np.float32), perturbed.astype(np.float32)).nhd


def _witnessed(reference: Sequence[Sequence[Pixels]]) -> dict[str, Floats]:
    """Return what the networks say of each other on each image, (model, tile)."""
    tables = _tables(reference)
    ballot = ballot_of(tables)
    truth = fit_truth(ballot, np.ones(len(reference), bool))
    return {"estimated F1": truth.f1(ballot), "agreement": _agreement(reference)}


def _agreement(reference: Sequence[Sequence[Pixels]]) -> Floats:
    """Return the mean overlap of each network with the others on each image, (model, tile)."""
    overlap = np.full((len(reference), len(reference), len(reference[0])), np.nan)
    for i, j in combinations(range(len(reference)), 2):
        pairs = zip(reference[i], reference[j], strict=True)
        overlap[i, j] = overlap[j, i] = [_nhd(*pair) for pair in pairs]
    mean: Floats = np.nanmean(overlap, axis=1)
    return mean


def _tables(reference: Sequence[Sequence[Pixels]]) -> VoteTables:
    """Count the vote patterns of each image; only pixels of the field of view have any."""
    longest = max(mask.size for mask in reference[0])
    boxes = [(slice(0, 1), slice(0, 1), slice(0, longest))] * len(reference[0])

    def bits(rows: Sequence[Pixels]) -> npt.NDArray[np.uint64]:
        padded = [np.pad(row, (0, longest - row.size)).astype(np.float32) for row in rows]
        words: npt.NDArray[np.uint64] = packed(
            [np.stack(padded)[:, None, None]], cores=boxes, threshold=0.5
        )
        return words

    masks = np.stack([bits(own) for own in reference])
    cores = bits([np.ones(mask.size, bool) for mask in reference[0]])
    voted = np.ones((len(boxes), len(reference)), bool)
    return vote_tables(masks, cores, voted, most=MOST_PATTERNS)
