"""The race: after each round, which models are beaten and whether the answer is proven."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cte_dask.engine.racing.claims import ABOVE, BEATS, BELOW, BOTH, WITHIN, Claims
from cte_dask.engine.racing.order import Round
from cte_dask.engine.racing.survival import Tally

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.engine.racing.survival import Look

__all__ = ["DELTA", "EPSILON", "INTERVAL", "Race"]

DELTA = 0.05
EPSILON = 0.005
INTERVAL = 0.95
FIRST_SHARE = 0.7
ASIDE_SHARE = 0.15
MEMORY = 4
CUTS, FINE, FINEST, MOST_CUT = 4, 16, 1e-4, 16


@dataclass
class Race:
    """An anytime comparison of the medians of models over the tiles of a target.

    With probability 1 - `delta` at least, whenever one looks: every model in `proven` has a median
    above the k-th largest of all less `epsilon` (k is `top`), and no model in `dropped` is among
    the k best. In a full order, each model in `proven` has a median above that of every later one
    less `epsilon`. Medians are those over all blocks; the chance is that of the blocks' order.

    The error is shared out in advance. Let b be one of the k truly best. If the answer lacks it,
    then a claim of a worse model against b was proven, so only claims against k models matter. A
    model gets its part of the error when it comes into question as one of the best: the first k
    together `FIRST_SHARE` of it, each later one half of what is left. `ASIDE_SHARE` is for
    whoever sets models aside (`cte_dask.engine.racing.watch`).

    Parameters
    ----------
    models
        Their number.
    tiles_per_block
        Tiles of a whole block.
    top
        How many of the best to find; None for the order of all.
    delta
        Probability of an error.
    epsilon
        Difference of medians that does not matter.
    level
        Coverage of each model's interval, valid whenever one looks.

    Raises
    ------
    ValueError
        If a parameter lies outside its range.
    """

    models: int
    tiles_per_block: int
    top: int | None = 1
    delta: float = DELTA
    epsilon: float = EPSILON
    level: float = INTERVAL
    rounds: int = field(default=0, init=False)
    blocks: int = field(default=0, init=False)
    active: NDArray[np.bool_] = field(init=False)
    dropped: dict[int, int] = field(default_factory=dict, init=False)
    proven: tuple[int, ...] | None = field(default=None, init=False)
    standing: tuple[int, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        self._check_settings()
        self.active = np.ones(self.models, bool)
        self._claims = Claims.none(BOTH)
        self._low, self._high = Claims.none(ABOVE), Claims.none(BELOW)
        self._opened = np.zeros((2, self.models, self.models), bool)
        self._won = self._opened.copy()
        self._candidates: list[int] = []
        self._past: deque[Look] = deque(maxlen=MEMORY)
        self._tally: Tally | None = None

    @property
    def places(self) -> int:
        """How many places of the ranking are to be decided."""
        return self.models if self.top is None else min(self.top, self.models)

    def observe(
        self,
        drawn: Round,
        values: Sequence[NDArray[np.float64]],
        *,
        flagged: NDArray[np.bool_] | None = None,
        aside: NDArray[np.bool_] | None = None,
    ) -> None:
        """Take in a round.

        Parameters
        ----------
        drawn
            The next round of `cte_dask.engine.racing.order.rounds`.
        values
            Consistencies of each of its blocks, (model, tile), in [0, 1]; NaN where a tile says
            nothing. Rows of models that are not `active` are ignored.
        flagged
            Models that may not win on what was read so far, such as degenerate ones, (model,).
        aside
            Models that need not be beaten, since they may surely not win, (model,).

        Raises
        ------
        ValueError
            If values do not fit the race.
        """
        self._check(drawn, values)
        self.rounds, self.blocks = self.rounds + 1, self.blocks + len(values)
        blocks = [np.where(self.active[:, None], v, np.nan) for v in values]
        joined = np.concatenate(blocks, axis=1)
        if self._tally is None and np.isnan(joined).all():
            return
        if self._tally is None:
            self._tally = Tally(joined, tiles_per_block=self.tiles_per_block, raise_by=self.epsilon)
            self._learn(self._tally, drawn, blocks)
            self._open_intervals(self._tally)
        else:
            self._play(self._tally, drawn, blocks)
        nobody = np.zeros(self.models, bool)
        self._decide(
            self._tally, nobody if flagged is None else flagged, nobody if aside is None else aside
        )

    def intervals(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the ends of each model's interval (model,): it holds whenever one looks."""
        low, high = np.zeros(self.models), np.ones(self.models)
        for model in range(self.models if self._tally else 0):
            # the median can still lie where neither bound has won its game
            gaps = np.intersect1d(*(g.gap[g.above == model] for g in (self._low, self._high)))
            if len(gaps) and self._tally:
                ends = self._tally.edges
                low[model], high[model] = ends[gaps[0]], ends[gaps[-1] + 1]
        return low, high

    def beats(self, above: int, below: int) -> bool:
        """Whether it is proven that one model's median is larger than another's."""
        return bool(self._won[BEATS, above, below])

    def within(self, above: int, below: int) -> bool:
        """Whether it is proven that one model's median exceeds another's less epsilon."""
        return bool(self._won[:, above, below].any())

    def _check_settings(self) -> None:
        if self.models < 1 or self.tiles_per_block < 1:
            raise ValueError(
                f"nothing to race: {self.models} models, {self.tiles_per_block} tiles a block"
            )
        if self.top is not None and self.top < 1:
            raise ValueError(f"top must be at least 1, not {self.top}")
        if not 0 < self.delta < 1 or not 0 < self.level < 1:
            raise ValueError(f"delta {self.delta} and level {self.level} must lie between 0 and 1")
        if not 0 <= self.epsilon < 1:
            raise ValueError(f"epsilon {self.epsilon} must be at least 0 and below 1")

    def _check(self, drawn: Round, values: Sequence[NDArray[np.float64]]) -> None:
        if len(values) != len(drawn.blocks):
            raise ValueError(f"{len(values)} blocks of numbers for {len(drawn.blocks)} blocks")
        for block in values:
            if block.shape[0] != self.models or block.shape[1] > self.tiles_per_block:
                raise ValueError(
                    f"numbers of shape {block.shape} where {self.models} models and at most "
                    f"{self.tiles_per_block} tiles are expected"
                )

    def _learn(self, tally: Tally, drawn: Round, blocks: Sequence[NDArray[np.float64]]) -> Look:
        look = tally.look(drawn, blocks)
        tally.add(look)
        self._past.append(look)
        return look

    def _play(self, tally: Tally, drawn: Round, blocks: Sequence[NDArray[np.float64]]) -> None:
        look = self._learn(tally, drawn, blocks)
        self._claims = self._claims.after(look, self.active)
        self._low = self._low.after(look, self.active)
        self._high = self._high.after(look, self.active)
        # after 2, 4, 8 … rounds: cutting gaps multiplies the games, late ones need finer levels
        if self.rounds & (self.rounds - 1) == 0:
            self._refine(tally)

    def _refine(self, tally: Tally) -> None:
        """Look closer where claims are still open."""
        intervals = tally.cut(np.unique(self._claims.gap))
        if intervals is not None:
            self._claims = self._claims.cut(intervals)
            self._low, self._high = self._low.cut(intervals), self._high.cut(intervals)
            self._past.clear()

    def _open_intervals(self, tally: Tally) -> None:
        models = np.repeat(np.arange(self.models)[:, None], 2, axis=1)
        error = (1 - self.level) / 2
        self._low = self._low.opened(models, BEATS, error=error, gaps=tally.gaps, past=self._past)
        self._high = self._high.opened(models, BEATS, error=error, gaps=tally.gaps, past=self._past)

    def _decide(self, tally: Tally, flagged: NDArray[np.bool_], aside: NDArray[np.bool_]) -> None:
        self._note_wins()
        self._drop(self.active & ~aside)
        medians = tally.medians()
        running = self.active & ~aside
        able = running & ~flagged & ~np.isnan(medians)
        best = np.flatnonzero(able)
        best = best[np.argsort(-medians[best], kind="stable")][: self.places]
        self.proven = self._answer(running, able, medians)
        self.standing = self.proven or tuple(int(m) for m in best)
        if self.proven is None:
            self._claim(tally, running, best)

    def _note_wins(self) -> None:
        """Note the claims that were opened and have no game left: they are won at every level."""
        still = np.zeros_like(self._opened)
        games = self._claims
        still[games.kind, games.above, games.below] = True
        self._won = self._won | (self._opened & ~still)

    def _drop(self, running: NDArray[np.bool_]) -> None:
        """Drop whom enough others surely beat; in a full order, whose every place is proven."""
        within = self._won[WITHIN]
        if self.top is None:
            # a pair is decided whichever of the two is above, or if the other is set aside
            decided = within | within.T | ~(running | self._settled())
            out = running & (decided.sum(axis=1) >= self.models - ~decided.diagonal())
        else:
            # both, lest a model worse by more than epsilon has two chances to be wrong
            out = running & ((within & self._won[BEATS]).sum(axis=0) >= self.places)
        for model in np.flatnonzero(out):
            self.dropped[int(model)] = self.blocks
        self.active = self.active & ~out
        pair = self.active[:, None] & self.active
        self._opened = self._opened & pair  # what is given up is not won
        games = self._claims
        self._claims = games.where(pair[games.above, games.below])

    def _settled(self) -> NDArray[np.bool_]:
        return np.isin(np.arange(self.models), list(self.dropped))

    def _answer(
        self, running: NDArray[np.bool_], able: NDArray[np.bool_], medians: NDArray[np.float64]
    ) -> tuple[int, ...] | None:
        """Return the models in question for the first places, if all it takes is proven."""
        within = self._won[WITHIN]
        if self.top is None:
            running, able = running | self._settled(), able | self._settled()
        models = np.flatnonzero(able)
        wins = within[np.ix_(models, np.flatnonzero(running))].sum(axis=1)
        # lexsort sorts by its last key first: proven wins, then medians
        best = models[np.lexsort([-medians[models], -wins])][: self.places]
        rest = running & ~np.isin(np.arange(self.models), best)
        for number, model in enumerate(best):
            later = best[number + 1 :] if self.top is None else best[:0]
            if not (within[model, rest].all() and within[model, later].all()):
                return None
        enough = len(best) == self.places or not rest.any()
        return tuple(int(m) for m in best) if len(best) and enough else None

    def _claim(self, tally: Tally, running: NDArray[np.bool_], best: NDArray[np.int64]) -> None:
        """Open the claims that would prove what looks true now."""
        if self.top is None:
            pairs = [(a, b) for i, a in enumerate(best) for b in best[i + 1 :]]
            share = (1 - ASIDE_SHARE) / max(1, self.models * (self.models - 1) / 2)
            self._open(tally, pairs, (WITHIN,), share)
            return
        for model in best:
            if model not in self._candidates:
                self._candidates.append(int(model))
                rivals = [(model, b) for b in np.flatnonzero(running) if b != model]
                self._open(tally, rivals, (WITHIN, BEATS), self._share())

    def _share(self) -> float:
        """Return the part of the error of each claim of the newest candidate."""
        later = len(self._candidates) - self.places
        if later <= 0:
            return FIRST_SHARE / self.places**2  # of each of k candidates against the k best
        rest = 1 - FIRST_SHARE - ASIDE_SHARE
        return float(rest * 0.5**later / self.places)

    def _open(
        self,
        tally: Tally,
        pairs: Sequence[tuple[np.int64, np.int64]],
        kinds: Sequence[int],
        share: float,
    ) -> None:
        for kind in kinds:
            new = [p for p in pairs if not (self._opened | self._won)[kind][p]]
            if new:
                listed = np.array(new)
                self._opened[kind, listed[:, 0], listed[:, 1]] = True
                self._claims = self._claims.opened(
                    listed, kind, error=self.delta * share, gaps=tally.gaps, past=self._past
                )
