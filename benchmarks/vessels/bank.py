"""Thirteen published networks that segment retinal vessels, by authors who did not know of CTE.

The weights (safetensors) are read from a folder and are no part of this repository; the
architectures are written anew from the papers and the public sources.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import fundus
import numpy as np
import numpy.typing as npt
import torch
from m2unet import M2UNet
from retina_unet import RetinaUNet, state_of
from safetensors.torch import load_file
from torch import Tensor, nn
from wnet import WNet

__all__ = ["NETWORKS", "ZOO", "Network", "load"]

REPOSITORY = Path(__file__).resolve().parents[2]
ZOO = Path(os.environ.get("CTE_ZOO", REPOSITORY.parent / "shared" / "zoo"))

Floats = npt.NDArray[np.float32]


class Probability(nn.Module):
    """A network and its last activation: the probability of vessel, (N, 1, y, x).

    Parameters
    ----------
    network
        Gives logits.
    vessel
        Turns them into a probability.
    """

    def __init__(self, network: nn.Module, vessel: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.vessel = network, vessel

    def forward(self, x: Tensor) -> Tensor:
        """Return the probability."""
        return self.vessel(self.network(x))


def _second_class(logits: Tensor) -> Tensor:
    return logits.softmax(dim=1)[:, 1:2]


def _not_background(logits: Tensor) -> Tensor:
    return 1 - logits.softmax(dim=1)[:, :1]


@dataclass(frozen=True, slots=True)
class Network:
    """One published network and how it is used.

    Parameters
    ----------
    name
        Of its file of weights, without ``.safetensors``.
    trained_on
        The public data set, as its authors say.
    build
        Makes the architecture.
    vessel
        Turns its logits into the probability of vessel.
    prepare
        Turns an image (channel, y, x) into its input.
    width
        Pixels across that its authors resize images to; None: as they are.
    state
        Brings the weights into the architecture's names.
    bottleneck
        Layer that feature perturbation acts on; empty for the one that is found.
    """

    name: str
    trained_on: str
    build: Callable[[], nn.Module]
    vessel: Callable[[Tensor], Tensor] = torch.sigmoid
    prepare: Callable[[Floats], Floats] = fundus.scaled_colour
    width: int | None = None
    state: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    bottleneck: str = ""

    def weights(self, zoo: Path = ZOO) -> Path:
        """Return its file in the folder of published networks."""
        return zoo / "vessels" / f"{self.name}.safetensors"


M2UNETS = tuple(
    Network(f"m2unet_{data}", data, M2UNet, torch.sigmoid) for data in ("drive", "chasedb1", "hrf")
)
WNETS = (
    Network("lwnet_wnet_drive", "drive", partial(WNet, classes=1, widths=(8, 16, 32)), width=512),
    *(
        Network(
            f"lwnet_big_wnet_{name}",
            name[: name.index("_")],
            partial(WNet, classes=4, widths=(8, 16, 32, 64)),
            _not_background,
            width=width,
        )
        for name, width in (("drive_av", 512), ("hrf_av_1024", 1024))
    ),
)
RETINA_UNETS = tuple(
    Network(
        f"retina_unet_{name}",
        "drive",
        partial(RetinaUNet, pools_channels=pools_channels),
        _second_class,
        fundus.equalised_gray,
        state=state_of,
        # pooled along channels and rows, none of its maps is smaller along both y and x
        bottleneck="network.bottom" if pools_channels else "",
    )
    for pools_channels, names in (
        (False, ("best_a", "best_b", "last_a", "last_b")),
        (True, ("odd", "barely_trained_a", "barely_trained_b")),
    )
    for name in names
)
NETWORKS = (*M2UNETS, *WNETS, *RETINA_UNETS)
"""All of them; which are good on which target is not written here."""


def load(network: Network, zoo: Path = ZOO) -> nn.Module:
    """Return a network with its weights, in eval mode; it gives the probability of vessel.

    Raises
    ------
    RuntimeError
        If the weights do not fit the architecture: none may be missing, none left over.
    """
    architecture = network.build()
    architecture.load_state_dict(network.state(load_file(network.weights(zoo))), strict=True)
    module = Probability(architecture, network.vessel).eval()
    # a third less time on a processor
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
