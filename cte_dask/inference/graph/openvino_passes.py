"""Passes of a split network compiled for the processor by OpenVINO.

The unperturbed pass and those under feature perturbation become one graph, so that what they share
is computed once and stays in the layout that suits the processor. Numbers differ from PyTorch's by
rounding: sums are taken in another order, in float32 throughout.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from cte_dask.inference.graph.narrow import cut_to
from cte_dask.inference.graph.openvino_graph import convertible
from cte_dask.inference.graph.paths import Split
from cte_dask.inference.graph.skip_once import halved
from cte_dask.inference.graph.together import together

__all__ = ["OpenVinoPasses", "check_installed", "is_installed"]


def is_installed() -> bool:
    """Tell whether networks can be compiled by OpenVINO here."""
    try:
        _openvino()
    except ImportError:
        return False
    return True


def _openvino() -> Any:
    """Import OpenVINO without the part that counts its users, on each import, over the network."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_module("openvino")


def check_installed() -> None:
    """Refuse to go on without OpenVINO.

    Raises
    ------
    ValueError
        If it is not installed here.
    """
    if not is_installed():
        raise ValueError("networks compiled by OpenVINO need pip install 'cte-dask[openvino]'")


class OpenVinoPasses:
    """Compiles the passes of a split network, once for each number of perturbed passes.

    Parameters
    ----------
    split
        The network, float32, on the CPU.

    Raises
    ------
    ValueError
        If OpenVINO is not installed.
    """

    def __init__(self, split: Split) -> None:
        check_installed()
        self._split = split
        self._compiled: dict[tuple[int, bool], Any] = {}
        self._lock = Lock()

    def run(self, x: Tensor, masks: Sequence[Sequence[Tensor]], *, cropped: bool) -> list[Tensor]:
        """See `cte_dask.inference.graph.together.CompiledPasses.run`."""
        inputs = [x, *(mask for layers in masks for mask in layers)]
        arrays = [tensor.contiguous().numpy() for tensor in inputs]
        with self._lock:  # a compiled model holds its activations once
            key = len(masks), cropped
            if key not in self._compiled:
                self._compiled[key] = self._compile(inputs, len(masks), cropped=cropped)
            # results are copied: the next batch overwrites them
            results = self._compiled[key].infer(arrays, share_inputs=True)
            return [torch.from_numpy(results[i]) for i in range(1 + len(masks))]

    def _compile(self, inputs: Sequence[Tensor], count: int, *, cropped: bool) -> Any:
        split = _as_traced(self._split, count, cropped=cropped)
        graph = together(split, inputs, count, cropped=cropped)
        options = {
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has it
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
        }
        model = _openvino().Core().compile_model(_converted(convertible(graph)), "CPU", options)
        return model.create_infer_request()


def _as_traced(split: Split, count: int, *, cropped: bool) -> Split:
    """Return a split of the operations as they were traced, with what is shared run once."""
    prefix, suffix = split.traced or (split.prefix, split.suffix)
    once, suffix = (halved(suffix) if count else None) or (None, suffix)
    plain = replace(split, prefix=prefix, once=once, suffix=suffix, inner=None)
    if cropped and split.inner is not None:
        return cut_to(plain, split.inner.core) or plain
    return plain


def _converted(graph: GraphModule) -> Any:
    """Return OpenVINO's model of a graph."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    inputs = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    shapes, types = [x.shape for x in inputs], [x.dtype for x in inputs]
    decoder = TorchFXPythonDecoder(graph, input_shapes=shapes, input_types=types)
    return frontend.convert(frontend.load(decoder))
