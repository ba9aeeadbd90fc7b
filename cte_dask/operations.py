"""Watching the operations that run, and counting those of floating point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = ["Watching", "flops_of"]


def flops_of(run: Callable[[], object]) -> int:
    """Run something and return its floating-point operations (2 a multiply-add).

    Parameters
    ----------
    run
        Runs networks; outputs are dropped.

    Returns
    -------
    int
        The sum of PyTorch's formulas (`torch.utils.flop_counter`, which gives the same sum but
        loads PyTorch's compiler to do so), over every operation that it has one for.
    """
    counter = _Counter()
    with torch.no_grad(), counter:
        run()
    return counter.total


class Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation inside its context, as PyTorch dispatches it.

    PyTorch's compiler, which its own tracers and counters load, stays unloaded.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Tell PyTorch that nothing here needs protection from its compiler, nor loading that."""
        return False

    def ran(self, func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        """Take note of an operation that ran."""
        raise NotImplementedError

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        result = func(*args, **given)
        self.ran(func, args, given, result)
        return result


class _Counter(Watching):
    """Adds up the operations that run inside its context."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def ran(self, func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            self.total += int(formula(*args, **kwargs, out_val=result))
