"""Claims about medians, each a game of bets that is won or still open at every level."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from cte_dask.engine.racing.survival import Look

__all__ = ["ABOVE", "BEATS", "BELOW", "BOTH", "WITHIN", "Claims"]

BEATS, WITHIN = 0, 1
"""Kinds: the median of `above` is larger than that of `below`; or than that less epsilon."""


@dataclass(frozen=True, slots=True)
class Book:
    """The strategies that the money of a game is spread over.

    Parameters
    ----------
    share
        Part of a bet that is put on tiles of `above` lying above c, the rest on tiles of `below`
        lying below it, (strategy,).
    stake
        Part of the money that a strategy bets, (strategy,).
    """

    share: NDArray[np.float64]
    stake: NDArray[np.float64]

    @classmethod
    def of(cls, *shares: float) -> Self:
        """Return the strategies with these shares and every stake."""
        return cls(np.repeat(shares, len(STAKES)), np.tile(STAKES, len(shares)))

    @property
    def caution(self) -> NDArray[np.float64]:
        """What a fifth of a block that loses half the stake costs: against betting high early."""
        cost: NDArray[np.float64] = 0.2 * np.log1p(-0.5 * self.stake)
        return cost


STAKES = np.array([0.25, 0.98])
BOTH = Book.of(0, 0.3, 0.5, 0.7, 1)
ABOVE, BELOW = Book.of(1), Book.of(0)
KEENNESS = 2.0
SMALL = 0.02
PART = 2**13


@dataclass(frozen=True, slots=True)
class Claims:
    """Games that are not won yet, one for each claim and each level c between two levels.

    In a game one bets that tiles of `above` exceed c, that tiles of `below` fall short of c, or on
    both. Before each round the money is spread over strategies by what each would have earned.

    Parameters
    ----------
    book
        The strategies: `BOTH` compares, `ABOVE` or `BELOW` alone bounds one model's median.
    above, below
        Models; one of the two matters not where only one is bet on.
    gap
        c lies at or above the level of this number, and below the next.
    kind
        `BEATS` or `WITHIN`.
    wealth
        Logarithm of what one unit has become.
    enough
        Logarithm of the wealth at which the game is won.
    merit
        Logarithm of what each strategy earned, (game, strategy).
    """

    book: Book
    above: NDArray[np.int64]
    below: NDArray[np.int64]
    gap: NDArray[np.int64]
    kind: NDArray[np.int64]
    wealth: NDArray[np.float64]
    enough: NDArray[np.float64]
    merit: NDArray[np.float64]

    @classmethod
    def none(cls, book: Book) -> Self:
        """Return no game at all."""
        index, real = np.empty(0, np.int64), np.empty(0)
        return cls(book, index, index, index, index, real, real, np.empty((0, len(book.stake))))

    def opened(
        self,
        pairs: NDArray[np.int64],
        kind: int,
        *,
        error: float,
        gaps: int,
        past: Iterable[Look],
    ) -> Self:
        """Return these games and those of some more claims.

        Parameters
        ----------
        pairs
            Models above and below, (claim, 2).
        kind
            Kind of all these claims.
        error
            Probability at most, for each claim, that it is proven though it is false.
        gaps
            Number of gaps between levels, with those below and above all.
        past
            Rounds before, from which strategies may learn; no money is won on them.
        """
        n = len(pairs) * gaps
        games = replace(
            self,
            above=np.repeat(pairs[:, 0], gaps),
            below=np.repeat(pairs[:, 1], gaps),
            gap=np.tile(np.arange(gaps), len(pairs)),
            kind=np.full(n, kind),
            wealth=np.zeros(n),
            enough=np.full(n, -np.log(error)),
            merit=np.tile(self.book.caution, (n, 1)),
        )
        learnt = sum((games.growth(look) for look in past), games.merit)
        return self + replace(games, merit=learnt)

    def __len__(self) -> int:
        return len(self.gap)

    def __add__(self, other: Self) -> Self:
        joined = [np.concatenate([getattr(self, n), getattr(other, n)]) for n in _COLUMNS]
        return type(self)(self.book, *joined)

    def where(self, mask: NDArray[np.bool_]) -> Self:
        """Return the games for which the mask is true."""
        return self._subset(np.flatnonzero(mask))

    def _subset(self, which: NDArray[np.int64] | slice) -> Self:
        return type(self)(self.book, *(getattr(self, n)[which] for n in _COLUMNS))

    def cut(self, gap_of: NDArray[np.int64]) -> Self:
        """Return the games with gaps cut: each goes on in every part of its gap.

        Parameters
        ----------
        gap_of
            For each new gap, in order, the old one that it is a part of.
        """
        # the new gaps of an old one are neighbours; their games start from what the old one earned
        first = np.searchsorted(gap_of, self.gap, side="left")
        pieces = np.searchsorted(gap_of, self.gap, side="right") - first
        games = self._subset(np.repeat(np.arange(len(self)), pieces))
        # 0, 1, … among the pieces of one game: numbers of all games less where its own begin
        within = np.arange(len(games)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        return replace(games, gap=np.repeat(first, pieces) + within)

    def after(self, look: Look, scored: NDArray[np.bool_]) -> Self:
        """Play one round, and return the games that are still not won.

        Parameters
        ----------
        look
            The round.
        scored
            Models that have numbers in it, (model,); the games of others rest.
        """
        played = scored[self.above] & scored[self.below]
        games = self.where(played)
        growth = games.growth(look)
        # the money goes where it would have grown most so far; this round counts only afterwards,
        # or the bet would know its outcome
        merit = games.merit
        trust = np.exp(KEENNESS * (merit - merit.max(axis=1, keepdims=True, initial=-np.inf)))
        earned = np.log((trust * np.exp(growth)).sum(axis=1) / trust.sum(axis=1))
        games = replace(games, wealth=games.wealth + earned, merit=merit + growth)
        return self.where(~played) + games.where(games.wealth < games.enough)

    def growth(self, look: Look) -> NDArray[np.float64]:
        """Return the logarithm of what each strategy earns in a round, (game, strategy)."""
        growths = [
            self._subset(slice(low, low + PART))._growth(look) for low in range(0, len(self), PART)
        ]
        return np.concatenate([np.empty((0, len(self.book.stake))), *growths])

    def _growth(self, look: Look) -> NDArray[np.float64]:
        """Multiply the outcomes of the round's blocks; stakes are fixed before it.

        If the claim is false at c, the sums of u and of v over all blocks of the target are at
        most 0, so over those unread their means are at most `fair`: minus what was read, shared
        among them. A stake so small that u = -1/2 or v = -1/2 cannot ruin, times the block's
        weight, leaves the wealth's expectation at or below what it was: the product of
        expectations is at most the power of their mean (inequality of the two means).
        """
        above, below, gap, kind = self.above, self.below, self.gap, self.kind
        reached = look.least_before[kind, above, gap + 1]
        fair_u = -(reached - look.number_before[above] / 2) / look.unread
        fair_v = -(look.number_before[below] / 2 - look.most_before[below, gap]) / look.unread
        heaviest = look.weights.max()
        least_u = np.maximum(0.5 + fair_u, SMALL) * heaviest
        least_v = np.maximum(0.5 + fair_v, SMALL) * heaviest
        share, stake = self.book.share, self.book.stake
        stakes = np.stack([share * stake, (1 - share) * stake])
        product = np.ones((len(self), len(stake)))
        for counts, weight in zip(look.counts, look.weights, strict=True):
            plain, number = counts[BEATS], counts[BEATS, :, 0]
            u = (counts[kind, above, gap + 1] - number[above] / 2 - fair_u) / least_u
            v = (number[below] / 2 - plain[below, gap] - fair_v) / least_v
            product *= 1 + np.stack([weight * u, weight * v], axis=1) @ stakes
        grown: NDArray[np.float64] = np.log(product)
        return grown


_COLUMNS = tuple(f.name for f in fields(Claims) if f.name != "book")
