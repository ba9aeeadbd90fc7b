"""One image of the input's extent from whatever a network gives: several outputs, low resolution.

Of several outputs the one of `output.index` is taken; without it the only one that has the input's
extent, as of networks with deep supervision. Logits at a whole fraction of the resolution, as heads
of transformers give them, are interpolated linearly to the input's grid. Channels may stand last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ChannelsLast", "OneImage", "OutputError", "Selector", "channels_last", "tensors_of"]

MOST = 32
"""The coarsest resolution that is taken for one: a 32nd. Below, outputs are no maps."""


class OutputError(ValueError):
    """It cannot be told which output of a network is meant, or it has none."""


@dataclass(frozen=True, slots=True)
class _Image:
    """An output that is an image (N, C, [z,] y, x), and the input's voxels to one of its own."""

    image: Tensor
    factor: tuple[int, ...]
    channels_last: bool = False

    @property
    def full(self) -> bool:
        return max(self.factor) == 1


class OneImage:
    """Turns what a network gives for a batch into one image of the batch's extent.

    Parameters
    ----------
    index
        Place or name of the output; None where the only one that fits is to be taken.
    nearest
        Whether voxels are repeated, not interpolated, where the resolution is lower, for labels.
    """

    def __init__(self, index: int | str | None = None, *, nearest: bool = False) -> None:
        self.index, self.nearest = index, nearest
        self.factor: tuple[int, ...] = ()
        """The input's voxels to one of the output, along each axis; empty before the first call."""
        self._choice, self._channels_last = "", False

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the outputs of the last batch."""
        coarse = max(self.factor, default=1) > 1
        factor = "×".join(map(str, self.factor if len({*self.factor}) > 1 else self.factor[:1]))
        return (
            *([self._choice] if self._choice else []),
            *(["its output has its channels last"] if self._channels_last else []),
            *([f"its output has 1/{factor} of the resolution: interpolated"] if coarse else []),
        )

    def __call__(self, output: object, x: Tensor) -> Tensor:
        """Return the image.

        Parameters
        ----------
        output
            A tensor, or tensors in lists, tuples and dicts.
        x
            The batch, (N, C, [z,] y, x).

        Returns
        -------
        Tensor
            (N, C_out, [z,] y, x). A single output that fits in no way is left as it is.

        Raises
        ------
        OutputError
            If the output is not there, or it cannot be told which is meant.
        """
        tensors = self._tensors(output)
        if len(tensors) == 1:
            (tensor,) = tensors.values()
            fitting = _fitting(tensor, x)
            return tensor if fitting is None else self._image(fitting, x)
        images = {name: i for name, t in tensors.items() if (i := _fitting(t, x)) is not None}
        full = {name: i for name, i in images.items() if i.full}
        for those, why in ((full, "has the input's extent"), (images, "is an image")):
            if len(those) == 1:
                ((name, image),) = those.items()
                self._choice = f"takes output {name} of {len(tensors)}: it alone {why}"
                return self._image(image, x)
        raise OutputError(
            f"it gives {_listed(tensors)}, of which {len(full) or 'none'} have the input's extent: "
            "name one with output.index"
        )

    def _tensors(self, output: object) -> dict[str, Tensor]:
        """Return the tensors of an output by name, those below `index` alone if it is given."""
        tensors = tensors_of(output)
        if self.index is None:
            if not tensors:
                raise OutputError(f"it gives a {type(output).__name__}: no output is a tensor")
            return tensors
        index = self.index
        if isinstance(index, int) and index < 0 and isinstance(output, list | tuple):
            index += len(output)
        chosen = {n: t for n, t in tensors.items() if f"{n}.".startswith(f"{index}.")}
        if not chosen:
            what = _listed(tensors) if tensors else f"a {type(output).__name__}"
            raise OutputError(f"output.index {self.index!r} is not there: it gives {what}")
        return chosen

    def _image(self, image: _Image, x: Tensor) -> Tensor:
        self.factor, self._channels_last = image.factor, image.channels_last
        if image.full:
            return image.image
        if self.nearest or not image.image.is_floating_point():
            return _repeated(image.image, image.factor)
        linear = "bilinear" if x.ndim == 4 else "trilinear"
        return functional.interpolate(image.image, tuple(x.shape[2:]), mode=linear)


class Selector(nn.Module):
    """A network whose output becomes one image; for those that take no hooks."""

    def __init__(self, network: nn.Module, image: OneImage) -> None:
        super().__init__()
        self.network, self._image = network, image
        self.training = network.training

    def forward(self, x: Tensor) -> Tensor:
        """Return the image of a batch (N, C, [z,] y, x)."""
        return self._image(self.network(x), x)


class ChannelsLast(nn.Module):
    """A network that takes (N, [z,] y, x, C), for batches (N, C, [z,] y, x)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, x: Tensor) -> object:
        """Return what the network gives."""
        return self.network(channels_last(x))


def channels_last(x: Tensor) -> Tensor:
    """Return a batch (N, C, [z,] y, x) as (N, [z,] y, x, C)."""
    return x.movedim(1, -1).contiguous()


def tensors_of(output: object) -> dict[str, Tensor]:
    """Return the tensors of an output with their names, as ``masks.0``; ``""`` if it is one."""
    return dict(_flat(output, ""))


def _flat(output: object, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        yield name, output
        return
    items: Iterator[tuple[object, object]] = iter(())
    if isinstance(output, Mapping):
        items = iter(output.items())
    elif isinstance(output, list | tuple):
        items = iter(enumerate(output))
    for key, value in items:
        yield from _flat(value, f"{name}.{key}" if name else str(key))


def _listed(tensors: Mapping[str, Tensor]) -> str:
    if list(tensors) == [""]:
        return f"one output {tuple(tensors[''].shape)}"
    return ", ".join(f"{name!r} {tuple(t.shape)}" for name, t in tensors.items())


def _fitting(output: Tensor, x: Tensor) -> _Image | None:
    """Return an output as an image of a batch's extent, or of a fraction of it; None if it is not.

    Its channels may stand last, where it is no image otherwise.
    """
    if output.ndim != x.ndim or len(output) != len(x):
        return None
    extent, shape = tuple(x.shape[2:]), tuple(output.shape)
    if (factor := _factor(extent, shape[2:])) is not None:
        return _Image(output, factor)
    if (factor := _factor(extent, shape[1:-1])) is not None:
        return _Image(output.movedim(-1, 1).contiguous(), factor, channels_last=True)
    return None


def _factor(extent: tuple[int, ...], coarse: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the whole numbers that an extent is of another; alike along y and x."""
    if min(coarse) < 1 or any(n % m for n, m in zip(extent, coarse, strict=True)):
        return None
    factor = tuple(n // m for n, m in zip(extent, coarse, strict=True))
    return factor if factor[-1] == factor[-2] and max(factor) <= MOST else None


def _repeated(image: Tensor, factor: tuple[int, ...]) -> Tensor:
    for axis, times in enumerate(factor, start=2):
        image = torch.repeat_interleave(image, times, dim=axis)
    return image
