"""What a bank says about a network's output: foreground, classes, instances."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue, StrictInt, field_validator

from cte_dask.models.yaml import Strict

__all__ = ["Output", "Segmentation"]


class Output(Strict):
    """How the network's output becomes a foreground probability.

    Parameters
    ----------
    channel
        The output channel that is the foreground.
    activation
        Function that turns the network's output into a probability; ``"none"`` if it is one
        already, ``"labels"`` if it holds instance labels, 0 for the background.
    threshold
        A voxel is foreground if its probability is strictly greater.
    classes
        Channels of a multi-class output that are foreground classes: a voxel belongs to the most
        probable of all channels, and consistencies are means over the classes present.
    index
        Position or name of the output, where the network returns several.
    """

    channel: StrictInt = Field(default=0, ge=0)
    activation: Literal["sigmoid", "softmax", "none", "labels"] = "sigmoid"
    threshold: float = Field(default=0.5, ge=0, lt=1)
    classes: tuple[StrictInt, ...] = ()
    index: StrictInt | str | None = None

    @property
    def map_threshold(self) -> float:
        """Value of the foreground maps above which a voxel is foreground.

        The maps of several classes are 0 wherever the background, or another class, wins.
        """
        return 0.0 if self.classes else self.threshold

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(classes)) < len(classes) or min(classes, default=0) < 0:
            raise ValueError(f"classes {list(classes)} must be distinct channels from 0")
        return classes


class Segmentation(Strict):
    """How probability maps become instances; see `cte_dask.inference.segmenters`.

    Parameters
    ----------
    name
        A segmenter, such as ``components``, ``distance_watershed``, ``boundary_watershed``.
    channels
        Output channel of each map that the segmenter takes (several for affinities); the
        foreground is ``output.channel`` unless it is named here.
    parameters
        Parameters of the segmenter.
    """

    name: str = "components"
    channels: dict[str, StrictInt | tuple[StrictInt, ...]] = Field(default_factory=dict)
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
