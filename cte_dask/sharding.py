"""Shards: the blocks of a run shared out among processes that know nothing of each other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Shard"]


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several equal parts of a run.

    Parameters
    ----------
    number
        Which one, from 1.
    of
        How many there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read a shard as the option ``--shard`` gives it.

        Raises
        ------
        ValueError
            If it is not ``i/n`` with i from 1 to n.

        Examples
        --------
        >>> Shard.parse("2/8")
        Shard(number=2, of=8)
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"--shard {text!r} must be i/n with i from 1 to n, such as 1/8")
        return cls(int(match[1]), int(match[2]))

    def part(self, blocks: Iterable[int]) -> list[int]:
        """Return those of some blocks that are this shard's: every n-th of all blocks.

        Examples
        --------
        >>> Shard(2, 3).part(range(8))
        [1, 4, 7]
        """
        return [int(block) for block in blocks if block % self.of == self.number - 1]
