"""Names of scores, ``metric@perturbation``, and the family that each belongs to."""

from __future__ import annotations

from collections.abc import Sequence

from cte_dask.consistency import BANK_METRICS

__all__ = ["families_of", "family_of"]


def family_of(score: str) -> str:
    """Return the family of a score.

    Examples
    --------
    >>> family_of("nhd@dropout:0.2:fixed"), family_of("consensus@none")
    ('dropout', 'agreement')
    """
    metric, _, perturbation = score.partition("@")
    if metric in BANK_METRICS:
        return "agreement"
    kind, _, rest = perturbation.partition(":")
    return f"{kind}:{rest.partition(':')[0]}" if "." in kind else kind


def families_of(scores: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Group scores into families, in the order in which families first appear."""
    found: dict[str, tuple[str, ...]] = {}
    for score in scores:
        family = family_of(score)
        found[family] = (*found.get(family, ()), score)
    return found
