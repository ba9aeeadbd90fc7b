"""Ways to use a model: the same network on the target at another size, or prepared otherwise.

Each way is a candidate, a member of the bank of its own: which one is best is found with the
ranking. A model as the bank has it is the way that changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from cte_dask.models.spec import ModelSpec, Variant, checked_scale

__all__ = ["AS_IT_IS", "check_scales", "members_of"]

AS_IT_IS = Variant()
"""The way that changes nothing."""


def check_scales(scales: Sequence[float] | None) -> tuple[float, ...]:
    """Return the scales at which models are used; by default 1.

    Parameters
    ----------
    scales
        What a user gives.

    Raises
    ------
    ValueError
        If there is none, one is given twice or is no number within reason.
    """
    if scales is None:
        return (1.0,)
    if isinstance(scales, str | bytes) or not scales:
        raise ValueError(f"scales must be one or more numbers such as 0.5, 1, not {scales!r}")
    numbers = tuple(checked_scale(s) for s in scales)
    shown = Counter(f"{s:g}" for s in numbers)
    if twice := [s for s, count in shown.items() if count > 1]:
        raise ValueError(f"scale {twice[0]} is given twice, of {', '.join(map(repr, numbers))}")
    return numbers


def members_of(
    models: Iterable[ModelSpec], scales: Sequence[float] | None = None
) -> dict[str, tuple[ModelSpec, Variant]]:
    """Return the candidates of some models: each at every scale, then its variants.

    Parameters
    ----------
    models
        The models of a bank.
    scales
        See `check_scales`.

    Returns
    -------
    dict
        Name → model and way. A variant that the scales give already is no further candidate.

    Raises
    ------
    ValueError
        If a scale is not accepted, or two candidates have one name.
    """
    sizes = [Variant(scale=s) for s in check_scales(scales)]
    members: dict[str, tuple[ModelSpec, Variant]] = {}
    for spec in models:
        for way in (*sizes, *(v for v in spec.variants if not _among(v, sizes))):
            name = way.candidate_name(spec.name)
            if name in members:
                raise ValueError(
                    f"two candidates have the name {name!r}: rename a model or variant"
                )
            members[name] = spec, way
    return members


def _among(variant: Variant, ways: Iterable[Variant]) -> bool:
    return variant.model_copy(update={"name": None}) in ways
