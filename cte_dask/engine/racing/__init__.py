"""Anytime ranking: which blocks to read next, which models drop out, and when to stop.

Pure: numbers of tiles in, decisions out. `rounds` gives the order of the blocks, `Race` takes the
tile consistencies of each round and tells what is decided; `benchmarks/race_banks.py` makes random
banks to measure both.

What is compared are the models' medians over all tiles of the target, and blocks, whose tiles are
alike, are what is drawn. A median is above c just when more than half of the tiles are, so for
every c the blocks' numbers of tiles above c, less half of their tiles, are bounded numbers whose
sum over the target has a known sign. *Model a has no larger median than model b* means that, at
one c at least (b's median), neither the sum of a's tiles above c nor that of b's below c is
positive. A claim "a is better than b" is therefore proven once a game of bets on both has been won
at every c: no correction for the many c is needed, since one c alone must have been fair. The bets
at c are on the same blocks, so what makes a block hard for all models cancels.

The wealth of fair bets is a nonnegative supermartingale, and exceeds 1/δ with probability δ at
most, whenever one looks (Ville 1939; Waudby-Smith & Ramdas 2024, doi:10.1093/jrsssb/qkad009).
Quantiles: Howard & Ramdas 2022, doi:10.3150/21-BEJ1388.
"""

from cte_dask.engine.racing.order import Round, rounds
from cte_dask.engine.racing.race import Race

__all__ = ["Race", "Round", "rounds"]
