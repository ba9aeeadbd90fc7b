"""Which perturbations are run where nobody says: the cheapest set that is worth its passes.

Once models are judged by what the others of the bank see (`cte_dask.ranking.transfer`), one
perturbation does nearly as well as seven, so large banks take the one that costs least: dropout
shares the encoder with the unperturbed pass, and a mirror suits networks that cannot be opened.
Small banks have too few witnesses and rank by consistency alone, for which geometric perturbations
tell most. Measured on real targets: docs/evidence.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cte_dask.perturb import Perturbation

if TYPE_CHECKING:
    from cte_dask.scoring.experiment import Candidate

__all__ = ["WITNESSES", "default_perturbations", "possible_defaults"]

WITNESSES = 5
"""Usable models from which on a bank judges its members: with three it does no better than CTE."""

GREY_BOXES = (Perturbation.parse("dropout:0.2"),)
BLACK_BOXES = (Perturbation.parse("mirror"),)
SMALL_BANK = (Perturbation.parse("mirror"), Perturbation.parse("zoom:0.8"))


def possible_defaults(models: int) -> tuple[Perturbation, ...]:
    """Return all that may be run where none is asked for, before it is known who is usable.

    Parameters
    ----------
    models
        Their number.
    """
    if models < WITNESSES:
        return SMALL_BANK
    return tuple(dict.fromkeys((*GREY_BOXES, *BLACK_BOXES, *SMALL_BANK)))


def default_perturbations(candidates: Sequence[Candidate]) -> tuple[Perturbation, ...]:
    """Return the perturbations of a bank for which none is asked.

    Parameters
    ----------
    candidates
        Its usable models.
    """
    if len(candidates) < WITNESSES:
        return SMALL_BANK
    return GREY_BOXES if all(c.features for c in candidates) else BLACK_BOXES
