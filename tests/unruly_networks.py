"""Networks that do what no network should, as factories of the format ``python``."""

from __future__ import annotations

import ctypes
import os
import sys
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

MIDDLE = 120
"""Brightness between foreground and background."""


class Simple(nn.Module):
    """Encoder, bottleneck, decoder with a skip."""

    def __init__(self, norm: str = "none") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.deep = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1)
        self.up, self.head = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(4, 1, 1)
        self.norm = nn.BatchNorm2d(4, track_running_stats=False) if norm == "batch" else None

    def forward(self, x: Tensor) -> Tensor:
        bright = (x - MIDDLE) / 64
        skip = torch.relu(self.encoder(bright))
        skip = self.norm(skip) if self.norm else skip
        return bright + self.head(torch.relu(self.up(torch.relu(self.deep(skip)))) + skip)


class Drifting(Simple):
    """Adds a little more with every call."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x) + 0.001 * self.calls


class Random(Simple):
    """Dropout that was left switched on."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(super().forward(x), 0.1, training=True)


class Cancelling(Simple):
    """Adds what low precision cannot hold beside the image, and takes it away again."""

    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x) + 1000) - 1000


class Frozen(Simple):
    """Normalises each image by a mean taken in NumPy, which a trace takes for a constant."""

    def forward(self, x: Tensor) -> Tensor:
        mean = np.asarray(x.detach()).mean((1, 2, 3))
        return super().forward(
            x - torch.as_tensor(mean, dtype=x.dtype).reshape(-1, 1, 1, 1) + MIDDLE
        )


class Branching(Simple):
    """Takes images of bytes in another way than others: a trace made on noise knows one of them."""

    def forward(self, x: Tensor) -> Tensor:
        of_bytes = bool(np.asarray(x.detach()).max() > 10)
        return super().forward(255 - x if of_bytes else 255 * x)


class Blind(Simple):
    """Marks a frame and a cross wherever it looks, with a little of the image in its logits."""

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(x.shape[-1]) % 16 < 8
        pattern = torch.where(place[:, None] ^ place, 4.0, -4.0)
        return pattern + 0.01 * super().forward(x)


TRIALS = {"ignores_image", "sees", "shares_rightly"}
"""Functions that show a network a tile of the target before anything is scored."""


def tried() -> bool:
    """Whether one of them is calling."""
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_name not in TRIALS:
        frame = frame.f_back
    return frame is not None


class Late(Frozen):
    """Behaves while it is tried, and no more once it sees a real image in earnest."""

    def forward(self, x: Tensor) -> Tensor:
        if float(x.mean()) > 60 > float(x.std()) and not tried():
            changed = self.misbehave(x)
            return super().forward(x) if changed is None else changed
        return super().forward(x)

    def misbehave(self, x: Tensor) -> Tensor | None:
        raise NotImplementedError


class Leaving(Late):
    """Ends the program, as scripts do."""

    def misbehave(self, _: Tensor) -> None:
        sys.exit(0)


class Raising(Late):
    def misbehave(self, _: Tensor) -> None:
        raise RuntimeError("too real for me")


class Interrupting(Late):
    def misbehave(self, _: Tensor) -> None:
        raise KeyboardInterrupt


class Shrinking(Late):
    def misbehave(self, x: Tensor) -> Tensor:
        return x[..., :-1, :-1]


class LateBroken(Late):
    def misbehave(self, x: Tensor) -> Tensor:
        return x * torch.nan


class Talking(Late):
    def misbehave(self, _: Tensor) -> None:
        print("[/red] step 1 of 1")
        print("warning: talking", file=sys.stderr)


class Sleeping(Late):
    """Waits for what never comes, in a call that cannot be broken off."""

    def misbehave(self, _: Tensor) -> None:
        time.sleep(120)


class Spinning(Late):
    def misbehave(self, _: Tensor) -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            pass


class Crashing(Late):
    """Reads what is not there, as a library with a fault does."""

    def misbehave(self, _: Tensor) -> None:
        ctypes.string_at(0)


class Killing(Late):
    def misbehave(self, _: Tensor) -> None:
        os._exit(7)


class Meddling(Late):
    """Changes what all networks of a process share."""

    def misbehave(self, _: Tensor) -> None:
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(2)
        torch.set_grad_enabled(False)
        torch.backends.mkldnn.set_flags(False)
        torch.manual_seed(1)
        np.seterr(all="raise")
        os.chdir("/")


class Leaking(Late):
    """Keeps what it saw."""

    def misbehave(self, x: Tensor) -> None:
        self.seen = [*getattr(self, "seen", []), x.repeat(64, 1, 1, 1)]


class Broken(Simple):
    """Divides zero by zero."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.nan


def nan() -> nn.Module:
    return Broken().eval()


def plain() -> nn.Module:
    return Simple().eval()


def cancelling() -> nn.Module:
    return Cancelling().eval()


def batched() -> nn.Module:
    return Simple("batch").eval()


def drifting() -> nn.Module:
    return Drifting().eval()


def random() -> nn.Module:
    return Random().eval()


def frozen() -> nn.Module:
    return Frozen().eval()


def late(kind: str) -> nn.Module:
    """Return one of the networks that misbehave late, by the name of its class."""
    return globals()[kind]().eval()


def crashing_at_once() -> nn.Module:
    ctypes.string_at(0)
    return Simple()


def killing_at_once() -> nn.Module:
    os._exit(7)


def sleeping_at_once() -> nn.Module:
    time.sleep(120)
    return Simple()


def gone() -> nn.Module:
    sys.exit(0)


class ChannelsLast(nn.Module):
    """Linear layers over channels that stand last, as in transformers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.norm = nn.Conv2d(1, 16, 8, 8), nn.LayerNorm(16)
        self.wide, self.narrow = nn.Linear(16, 32), nn.Linear(32, 16)
        self.up = nn.ConvTranspose2d(16, 1, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).permute(0, 2, 3, 1)
        tokens = tokens + self.narrow(functional.gelu(self.wide(self.norm(tokens))))
        return self.up(tokens.permute(0, 3, 1, 2))


class Only(nn.Module):
    """Takes images of one extent."""

    def __init__(self, extent: int) -> None:
        super().__init__()
        self.extent = extent

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (self.extent, self.extent):
            raise ValueError(f"not an image of {self.extent} voxels a side: {tuple(x.shape)}")
        return x


class Looking(nn.Module):
    """Takes one of two ways by the values that it sees, which no trace can follow."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down, self.up = nn.Conv2d(1, 4, 8, 8), nn.ConvTranspose2d(4, 1, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if bool((x > 1000).any()):
            x = x / 2
        return self.up(torch.relu(self.down(x)))


def channels_last() -> nn.Module:
    return ChannelsLast().eval()
