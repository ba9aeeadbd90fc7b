"""Cellpose-style models for a bank: flows and a cell probability, followed to sinks, give labels.

A network predicts at every pixel where the centre of its object lies, as a unit vector of a flow
field, and whether there is an object at all. Pixels that flow to the same sink are one object
(Stringer, Wang, Michaelos, Pachitariu 2021, doi:10.1038/s41592-020-01018-x). Such a model emits
labels: in a bank its format is ``python`` and its output ``{activation: labels}``.

``cellpose`` makes such a model of the package of that name; ``small`` makes one of a small network
and the post-processing below, which

    python examples/cellpose_style.py --out DIR

trains for a few hundred steps. Both factories run code of yours: the bank says ``trust: true``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from cte_dask.models.unet import UNet

__all__ = ["FlowLabels", "cellpose", "flows", "labels_from_flows", "small"]

FEATURES = (8, 16, 32, 64)
FLOW_SCALE = 5.0
"""The network is trained to give flows of this length, as in the paper's loss."""

Floats = NDArray[np.floating[Any]]

ENTRY = {
    "format": "python",
    "source": "cellpose_style:small",
    "trust": True,
    "axes": "yx",
    "halo": {"y": 32, "x": 32},
    "multiple": {"y": 8, "x": 8},
    "preprocessing": [
        {
            "name": "scale_range",
            "kwargs": {"min_percentile": 1, "max_percentile": 99.8},
            "scope": "volume",
        }
    ],
    "output": {"activation": "labels"},
}


# The package cellpose --------------------------------------------------------------------------


class _Cellpose(nn.Module):
    """A ``cellpose.models.CellposeModel`` that is given batches and gives batches of labels."""

    def __init__(self, model: Any, evaluation: Mapping[str, Any]) -> None:
        super().__init__()
        # in a tuple, as its network is in the hands of cellpose: its device, its precision
        self._model = (model,)
        self._evaluation = {"normalize": False, **evaluation}

    def forward(self, x: Tensor) -> Tensor:
        """Return labels, int32 (n, 1, y, x), of images (n, 1, y, x)."""
        planes = x.detach().float().cpu().numpy()[:, 0]
        labels = [self._model[0].eval(plane, **self._evaluation)[0] for plane in planes]
        return torch.from_numpy(np.stack(labels).astype(np.int32))[:, None].to(x.device)


def cellpose(*, pretrained: str, gpu: bool = False, **evaluation: Any) -> nn.Module:
    """Make a model of the package cellpose (3 or 4).

    Parameters
    ----------
    pretrained
        Name of one of its models, or path of the weights.
    gpu
        Whether its network runs on a GPU.
    **evaluation
        As ``CellposeModel.eval`` takes them, such as diameter, flow_threshold, min_size. Images
        come scaled by the bank's preprocessing, over the whole target: a percentile of each tile
        would make noise of an empty one bright, so that ``normalize`` is off.

    Raises
    ------
    ValueError
        If the package is not installed.
    """
    try:
        from cellpose.models import CellposeModel
    except ImportError as error:
        raise ValueError(f"cellpose cannot be imported ({error}): pip install cellpose") from error
    return _Cellpose(CellposeModel(gpu=gpu, pretrained_model=pretrained), evaluation)


# A model of our own ----------------------------------------------------------------------------


class FlowLabels(nn.Module):
    """A network with three outputs (flow along y and x, logit of the cell) and what follows it.

    Parameters
    ----------
    network
        Maps images (n, 1, y, x) to (n, 3, y, x).
    **post
        As `labels_from_flows` takes them.
    """

    def __init__(self, network: nn.Module, **post: Any) -> None:
        super().__init__()
        self.network, self._post = network, post

    def forward(self, x: Tensor) -> Tensor:
        """Return labels, int32 (n, 1, y, x)."""
        maps = self.network(x).float()
        flow, cell = maps[:, :2] / FLOW_SCALE, torch.sigmoid(maps[:, 2])
        pairs = zip(flow.cpu().numpy(), cell.cpu().numpy(), strict=True)
        labels = [labels_from_flows(f, c, **self._post) for f, c in pairs]
        return torch.from_numpy(np.stack(labels))[:, None].to(x.device)


def small(*, weights: str | None = None, **post: Any) -> nn.Module:
    """Make a small model of the Cellpose kind.

    Parameters
    ----------
    weights
        Path of the safetensors file that this script wrote; None leaves the network untrained.
    **post
        As `labels_from_flows` takes them.
    """
    network = UNet(dims=2, out_channels=3, features=FEATURES)
    if weights is not None:
        from safetensors.torch import load_file

        network.load_state_dict(load_file(Path(weights)))
    return FlowLabels(network, **post)


def labels_from_flows(
    flow: Floats, cell: Floats, *, threshold: float = 0.5, steps: int = 100, min_size: int = 15
) -> NDArray[np.int32]:
    """Follow the flow from every cell pixel to its sink; pixels of one sink are one object.

    Parameters
    ----------
    flow
        Float (2, y, x): the step along y and x at each pixel, about 1 pixel long in a cell.
    cell
        Probability (y, x).
    threshold
        Pixels of a higher probability belong to a cell.
    steps
        Steps followed; an object's pixels must reach its centre within them.
    min_size
        Smaller objects, in pixels, are dropped.

    Returns
    -------
    ndarray of int32, shape (y, x)
        0 background, 1 to the number of objects.
    """
    inside = cell > threshold
    labels = np.zeros(cell.shape, np.int32)
    ends = _followed(flow * inside, np.stack(inside.nonzero()).astype(np.float32), steps)
    labels[inside] = _sinks(ends, labels.shape)[tuple(ends)]
    return _compact(labels, min_size)


def _followed(flow: Floats, points: Floats, steps: int) -> NDArray[np.int64]:
    """Return the pixels (2, n) where points (2, n) end that go with a flow, interpolated."""
    last = np.array(flow.shape[1:])[:, None] - 1
    for _ in range(steps):
        step = [ndimage.map_coordinates(f, points, order=1, mode="nearest") for f in flow]
        points = np.clip(points + step, 0, last)
    return np.rint(points).astype(np.int64)


def _sinks(ends: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Give every place where points end a number; places a pixel or two apart are one."""
    ended = np.zeros(shape, bool)
    ended[tuple(ends)] = True
    grown = ndimage.binary_dilation(ended)
    sinks: NDArray[np.int32] = ndimage.label(grown, structure=np.ones((3, 3)))[0].astype(np.int32)
    return sinks


def _compact(labels: NDArray[np.int32], min_size: int) -> NDArray[np.int32]:
    """Drop small objects and number the others from 1."""
    sizes = np.bincount(labels.ravel())
    large = sizes >= min_size
    large[0] = False
    numbers = np.where(large, np.cumsum(large), 0).astype(np.int32)
    compact: NDArray[np.int32] = numbers[labels]
    return compact


# Training --------------------------------------------------------------------------------------


def flows(labels: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Return the flow of labels and where there are any.

    Heat is let in at the pixel of an object nearest to the median of its pixels, and spreads within
    the object alone; the flow is the gradient of its logarithm, of length 1 (Stringer et al. 2021,
    Methods, "Auxiliary vector flow representation").

    Parameters
    ----------
    labels
        (y, x), 0 the background.

    Returns
    -------
    ndarray of float32, shape (3, y, x)
        Flow along y and x, and 1 in objects.
    """
    maps = np.zeros((3, *labels.shape), np.float32)
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        mask = np.pad(labels[box] == number, 1)
        gradient = np.stack(np.gradient(np.log1p(_heat(mask))))[:, 1:-1, 1:-1]
        inside = mask[1:-1, 1:-1]
        length = np.maximum(np.linalg.norm(gradient, axis=0), 1e-12)
        maps[:2, *box][:, inside] = (gradient / length)[:, inside]
        maps[2, *box][inside] = 1
    return maps


def _heat(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Let heat spread from an object's middle: each step, in the object, a mean of 3 x 3 pixels."""
    places = np.argwhere(mask)
    nearest = ((places - np.median(places, axis=0)) ** 2).sum(axis=1).argmin()
    middle = tuple(places[nearest])
    heat = np.zeros(mask.shape)
    for _ in range(2 * sum(mask.shape)):
        heat[middle] += 1
        heat = ndimage.uniform_filter(heat, 3, mode="constant") * mask
    return heat


def _loss(output: Tensor, wanted: Tensor) -> Tensor:
    flow = functional.mse_loss(output[:, :2], FLOW_SCALE * wanted[:, :2])
    return 0.5 * flow + functional.binary_cross_entropy_with_logits(output[:, 2], wanted[:, 2])


def main() -> None:
    # only training needs what lies beside this file
    from instance_training import options, run

    model = small()
    arguments = options(__doc__.splitlines()[0])
    run(arguments, model, model.network, flows, _loss, name="cellpose-style", entry=ENTRY)


if __name__ == "__main__":
    main()
