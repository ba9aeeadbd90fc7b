"""What tracing takes from PyTorch that PyTorch does not promise to keep, all of it in this file.

| Name | What for | There since | It may go when |
|---|---|---|---|
| `TorchDispatchMode` | sees every ATen operation that runs | 1.13 | it leaves `torch.utils._python_dispatch` for a public module |
| `_should_skip_dynamo` | keeps the compiler unloaded: 2 s and 70 MB of a process; a PyTorch without it loads the compiler, and traces the same | 2.11 | a dispatch mode no longer loads `torch._dynamo` by itself |
| `WeakTensorKeyDictionary` | which node a tensor comes from, without keeping the tensor alive | 2.0 | `torch.utils.weak` is documented |
| `flop_registry`, `conv_flop_count`, `register_flop_formula` | PyTorch's formulas for floating-point operations | 2.1 | `FlopCounterMode`, which is public, counts without loading the compiler |
| `ONEDNN`, `ONEDNN_SUM`, `TRANSPOSED`, `ADD_RELU` | oneDNN's convolution with its activation in one pass | 2.0 | there is a public operator; without oneDNN networks run unfused |
| `LazyGraph` | a graph becomes Python code when it first runs, and most are only steps to the next: a tenth of a trial | 2.3 | `GraphModule` is lazy itself, and graphs may share code |

A PyTorch that moves one of them fails when this file is imported, or in
``tests/inference/graph``, not in a result: every trace is compared with the network before it is
used.
"""  # noqa: E501 - a row of a table cannot be broken

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx._lazy_graph_module import _LazyGraphModule as LazyGraph
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry, register_flop_formula
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = [
    "ADD_RELU",
    "CONVOLUTION",
    "CONVOLUTION_SUM",
    "LIBRARY",
    "ONEDNN",
    "ONEDNN_SUM",
    "TRANSPOSED",
    "LazyGraph",
    "Watching",
    "WeakTensorKeyDictionary",
    "conv_flop_count",
    "flop_registry",
    "register_flop_formula",
    "share_code",
]

ONEDNN = torch.ops.mkldnn._convolution_pointwise.default
"""A convolution and its activation in one pass, of oneDNN."""
ONEDNN_SUM = torch.ops.mkldnn._convolution_pointwise.binary
"""A convolution, a sum with another array, and an activation in one pass, of oneDNN."""
TRANSPOSED = torch.ops.mkldnn._convolution_transpose_pointwise.default
"""A transposed convolution and its activation in one pass, of oneDNN."""
ADD_RELU = torch.ops.aten._add_relu_.Tensor
"""A sum in place and a ReLU in one pass."""


LIBRARY: Any = torch.library.Library("cte_dask", "DEF")  # type: ignore[no-untyped-call]
"""Operations of our own, which `cte_dask.inference.graph.convolutions` runs."""


def _defined(name: str, like: Any) -> Any:
    """Make an operation of PyTorch with the arguments of another."""
    arguments = str(like._schema)
    LIBRARY.define(name + arguments[arguments.index("(") :])
    return getattr(torch.ops.cte_dask, name).default


CONVOLUTION = _defined("convolution", ONEDNN)
"""A convolution and its activation; arguments as oneDNN's."""
CONVOLUTION_SUM = _defined("convolution_sum", ONEDNN_SUM)
"""A convolution, a sum with another array, and an activation; arguments as oneDNN's."""


def share_code(module: Any, kind: Any) -> None:
    """Let a lazy graph run the code that a module of the same graph was compiled to, if it was."""
    if not kind._needs_recompile():
        type(module).forward = kind.forward
        module._code = ""  # it has no text of its own


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
        named = dict(kwargs or {})
        result = func(*args, **named)
        self.ran(func, args, named, result)
        return result
