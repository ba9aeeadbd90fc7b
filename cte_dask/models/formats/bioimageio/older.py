"""What bioimageio.spec loses, or refuses, where it turns a description 0.4 into one of 0.5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Older", "set_aside"]


@dataclass(frozen=True, slots=True)
class Older:
    """What was set aside from a description of an older format.

    Parameters
    ----------
    halos
        Name of an output of fixed shape → its halo along each spatial axis.
    per_dataset
        Steps of the first input's preprocessing that take percentiles of the whole data set, by
        their order among the steps of that kind.
    """

    halos: Mapping[str, dict[str, int]] = field(default_factory=dict)
    per_dataset: tuple[int, ...] = ()

    def restore(self, model: Any) -> None:
        """Give a model of format 0.5 back what its conversion lost."""
        ranges = [s for s in model.inputs[0].preprocessing if s.id == "scale_range"]
        for number in self.per_dataset:
            kwargs = ranges[number].kwargs
            kwargs.axes = ["batch", *(kwargs.axes or ())]


def set_aside(document: dict[str, Any]) -> tuple[dict[str, Any], Older]:
    """Return a description that can be converted, and what it said beside that.

    Parameters
    ----------
    document
        A description of any format, not yet validated.
    """
    if not str(document.get("format_version", "")).startswith(("0.3", "0.4")):
        return document, Older()
    halos: dict[str, dict[str, int]] = {}
    outputs = document.get("outputs")
    if isinstance(outputs, list):
        outputs = [_without_halo(output, halos) for output in outputs]
    return {**document, "outputs": outputs}, Older(halos, _per_dataset(document))


def _without_halo(output: object, halos: dict[str, dict[str, int]]) -> object:
    """Return an output; if its shape is fixed without its halo, which goes into `halos`."""
    if not isinstance(output, dict):
        return output
    axes, shape, halo = (output.get(key) for key in ("axes", "shape", "halo"))
    if not (isinstance(shape, list) and isinstance(halo, list)):
        return output
    sizes = dict(zip(str(axes), halo, strict=False))
    halos[str(output.get("name"))] = {a: sizes[a] for a in "zyx" if a in sizes}
    return {key: value for key, value in output.items() if key != "halo"}


def _per_dataset(document: Mapping[str, Any]) -> tuple[int, ...]:
    for image in _mappings(document.get("inputs"))[:1]:
        steps = [s for s in _mappings(image.get("preprocessing")) if s.get("name") == "scale_range"]
        modes = [(s.get("kwargs") or {}).get("mode") for s in steps]
        return tuple(n for n, mode in enumerate(modes) if mode == "per_dataset")
    return ()


def _mappings(items: object) -> list[dict[str, Any]]:
    """Return the mappings of a list; what else stands there, validation refuses."""
    return [i for i in items if isinstance(i, dict)] if isinstance(items, list) else []
