"""The network that a loader returns: one call, the same for every format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from cte_dask.models.format_registry import FORMATS

if TYPE_CHECKING:
    import torch

    from cte_dask.models.one_image import OneImage
    from cte_dask.models.spec import ModelSpec

__all__ = ["Loader", "ModelError", "Network", "code_of", "find_loader"]


class ModelError(ValueError):
    """A model cannot be used; ``load_network`` names it and the reason in one line."""


def code_of(*parts: object) -> str:
    """Return what identifies an architecture: all that its loader builds it of, weights aside.

    Parameters
    ----------
    *parts
        Plain data; a class, as of a layer, counts by its name.
    """
    return json.dumps(parts, sort_keys=True, default=repr)


@dataclass(frozen=True, eq=False, kw_only=True)
class Network:
    """A loaded source model.

    Parameters
    ----------
    forward
        Maps float (N, C, [z,] y, x) to float (N, C_out, [z,] y, x).
    kind
        ``"module"`` for an ordinary ``nn.Module``, ``"graph"`` for an exported graph module,
        ``"script"`` for a TorchScript module, ``"opaque"`` where no layer can be reached.
    fixed_shape
        The only extent accepted along each of (N, C, [z,] y, x), None along an axis that accepts
        several; None in place of the tuple when all are free.
    notes
        Remarks for the report of ``cte models check``.
    code
        Identifies the architecture: networks of equal `code` differ in weights alone. Empty where
        the architecture is not known.
    image
        What its outputs come down to one image by; None before that is settled.
    channels_last
        Whether the network itself takes (N, [z,] y, x, C).
    window
        The only extent ([z,] y, x) that the network itself takes; larger images are run in windows.
    """

    forward: torch.nn.Module
    kind: Literal["module", "graph", "script", "opaque"]
    fixed_shape: tuple[int | None, ...] | None = None
    notes: tuple[str, ...] = ()
    code: str = ""
    image: OneImage | None = None
    channels_last: bool = False
    window: tuple[int | None, ...] | None = None

    @property
    def adaptations(self) -> tuple[str, ...]:
        """What is done to its input and its last output, for a report."""
        notes = ["it takes images with their channels last"] if self.channels_last else []
        if self.window is not None:
            extent = "×".join(str(n or "any") for n in self.window)
            notes.append(f"it takes {extent} voxels alone: larger tiles are run in windows")
        return (*notes, *(self.image.notes if self.image else ()))

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size accepted, None when any size is."""
        return None if self.fixed_shape is None else self.fixed_shape[0]

    @property
    def fixed_spatial(self) -> tuple[int | None, ...] | None:
        """The only extents accepted along ([z,] y, x), None when all are free."""
        spatial = None if self.fixed_shape is None else self.fixed_shape[2:]
        return spatial if spatial and any(spatial) else None


class Loader(Protocol):
    """Turns the weights of one format into a network."""

    def load(self, spec: ModelSpec, path: Path) -> Network:
        """Return the network in evaluation mode, in float32 on the CPU.

        Parameters
        ----------
        spec
            The bank's entry of the model.
        path
            The verified weights on this machine; for format ``python`` not a file.

        Raises
        ------
        ValueError
            If it cannot be loaded; one line with the reason, without the model's name.
        """
        ...


def find_loader(format_: str) -> Loader:
    """Return the loader of a format: a key of :data:`FORMATS` or ``"package.module:Loader"``.

    Raises
    ------
    ValueError
        If there is no such module or attribute.
    """
    loader: Loader = FORMATS.load(format_)()
    return loader
