"""Names of scores: a metric under a perturbation, ``metric@perturbation``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["ScoreName", "score_names"]


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
    >>> name.metric, name.perturbation
    ('nhd', 'dropout:0.2:fixed')
    >>> str(ScoreName("vrand", "mirror"))
    'vrand@mirror'
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


def score_names(metrics: Iterable[str], perturbations: Iterable[str]) -> tuple[ScoreName, ...]:
    """Return the scores that some metrics and perturbations make, those of a perturbation together.

    Parameters
    ----------
    metrics, perturbations
        Their names.

    Examples
    --------
    >>> [str(name) for name in score_names(["nhd", "ei"], ["rotate"])]
    ['nhd@rotate', 'ei@rotate']
    """
    metrics = tuple(metrics)
    return tuple(ScoreName(m, p) for p in perturbations for m in metrics)
