"""Names of scores: a metric under a perturbation, ``metric@perturbation``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cte_dask.consistency import BANK_METRICS

__all__ = ["UNPERTURBED", "ScoreName", "families_of", "score_names"]

UNPERTURBED = "none"
"""The perturbation that changes nothing: what metrics of a whole bank are about."""


@dataclass(frozen=True, order=True, slots=True)
class ScoreName:
    """The name of a score.

    Parameters
    ----------
    metric
        Name of the metric.
    perturbation
        Name of the perturbation, with its strength.

    Examples
    --------
    >>> name = ScoreName.parse("nhd@dropout:0.2:fixed")
    >>> name.metric, name.perturbation, name.family
    ('nhd', 'dropout:0.2:fixed', 'dropout')
    >>> str(ScoreName("agreement", "none"))
    'agreement@none'
    """

    metric: str
    perturbation: str

    @classmethod
    def parse(cls, text: str) -> ScoreName:
        """Read the name as files and options give it.

        Parameters
        ----------
        text
            Such as ``"nhd@dropout:0.2"``.

        Raises
        ------
        ValueError
            If it is not ``metric@perturbation``.
        """
        metric, _, perturbation = text.partition("@")
        if not metric or not perturbation:
            raise ValueError(f"score {text!r} must be metric@perturbation, such as nhd@dropout:0.2")
        return cls(metric, perturbation)

    def __str__(self) -> str:
        return f"{self.metric}@{self.perturbation}"

    @property
    def of_bank(self) -> bool:
        """Whether the metric compares the models of a bank with each other."""
        return self.metric in BANK_METRICS

    @property
    def applies(self) -> bool:
        """Whether there is such a score.

        Metrics of a whole bank are about the unperturbed predictions, all others about perturbed
        ones.

        Examples
        --------
        >>> ScoreName("nhd", "rotate").applies, ScoreName("nhd", "none").applies
        (True, False)
        >>> ScoreName("agreement", "none").applies
        True
        """
        return self.of_bank == (self.perturbation == UNPERTURBED)

    @property
    def family(self) -> str:
        """The kind of evidence: that of the perturbation, or ``agreement`` between the models.

        Examples
        --------
        >>> ScoreName.parse("ei@your_package.module:Thing:0.3").family
        'your_package.module:Thing'
        >>> ScoreName.parse("ei@mine:Stripes:0.3").family
        'mine:Stripes'
        """
        if self.of_bank:
            return "agreement"
        kind, *rest = self.perturbation.split(":")
        # what follows a kind of ours is a number, what follows a module is a name
        return f"{kind}:{rest[0]}" if rest and rest[0].isidentifier() else kind


def score_names(metrics: Iterable[str], perturbations: Iterable[str]) -> tuple[ScoreName, ...]:
    """Return the scores that some metrics and perturbations make, those of a perturbation together.

    Parameters
    ----------
    metrics, perturbations
        Their names.

    Examples
    --------
    >>> [str(name) for name in score_names(["nhd", "agreement"], ["rotate", "none"])]
    ['nhd@rotate', 'agreement@none']
    """
    metrics = tuple(metrics)
    names = (ScoreName(m, p) for p in perturbations for m in metrics)
    return tuple(name for name in names if name.applies)


def families_of(scores: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Group scores into families, in the order in which families first appear.

    Examples
    --------
    >>> families_of(["nhd@mirror", "agreement@none", "ei@mirror"])
    {'mirror': ('nhd@mirror', 'ei@mirror'), 'agreement': ('agreement@none',)}
    """
    families: dict[str, tuple[str, ...]] = {}
    for score in scores:
        family = ScoreName.parse(score).family
        families[family] = (*families.get(family, ()), score)
    return families
