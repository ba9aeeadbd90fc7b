"""Translates a BioImage.IO description into the vocabulary of a bank. No torch.

Arguments are objects of bioimageio.spec's model description 0.5, of which only attributes are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cte_dask.models.output import Output

__all__ = [
    "axes_of",
    "channels_of",
    "extents",
    "fixed_shape",
    "output_of",
    "place_of",
    "steps_of",
    "voxel_size",
]

_NANOMETRES = {
    "picometer": 1e-3, "angstrom": 0.1, "nanometer": 1.0, "micrometer": 1e3, "millimeter": 1e6,
    "centimeter": 1e7, "meter": 1e9,
}  # fmt: skip
_REMEDY = "say in the bank what is to happen"


def axes_of(tensor: Any) -> tuple[str, ...]:
    """Return the axes of a tensor in order: ``batch``, ``channel``, ``z``, ``y``, ``x``.

    Raises
    ------
    ValueError
        If it has other axes, or lacks y or x.
    """
    axes = tuple("batch" if a.type == "batch" else _axis(tensor, a) for a in tensor.axes)
    if not {"y", "x"} <= set(axes):
        raise ValueError(f"{tensor.id} has the axes {', '.join(axes)}: y and x are needed")
    return axes


def _axis(tensor: Any, axis: Any) -> str:
    if axis.type == "channel":
        return "channel"
    if axis.type != "space" or str(axis.id) not in ("z", "y", "x"):
        raise ValueError(
            f"{tensor.id} has the axis {axis.id} ({axis.type}): batch, channel, z, y, x are known"
        )
    return str(axis.id)


def extents(image: Any, output: Any) -> dict[str, dict[str, int]]:
    """Return ``halo`` and ``multiple``, each where the description determines it."""
    entry: dict[str, dict[str, int]] = {}
    space = [a for a in image.axes if a.type == "space"]
    ids = sorted((str(a.id) for a in space), reverse=True)
    halos = {str(a.id): a.halo for a in output.axes if a.type == "space" and hasattr(a, "halo")}
    if halos:
        entry["halo"] = {axis: halos.get(axis, 0) for axis in ids}
    sizes = {str(a.id): _size(image, a) for a in space}
    # min + n·step are all multiples of step only if min is a multiple too
    if all(getattr(s, "step", 0) and s.min % s.step == 0 for s in sizes.values()):
        entry["multiple"] = {axis: sizes[axis].step for axis in ids}
    return entry


def fixed_shape(tensor: Any) -> dict[str, int]:
    """Return the extents of the axes that accept only one."""
    sizes = {name: _size(tensor, a) for name, a in zip(axes_of(tensor), tensor.axes, strict=True)}
    return {name: size for name, size in sizes.items() if isinstance(size, int)}


def _size(tensor: Any, axis: Any) -> Any:
    """Return an axis's size: a number, a parametrised size, or None where it is not determined.

    A size may refer to another axis; a reference to one of the same image is followed.
    """
    size = axis.size
    reference = str(getattr(size, "axis_id", ""))
    if not reference:
        return size
    named = [a for a in tensor.axes if str(a.id) == reference and str(size.tensor_id) == tensor.id]
    # its size is (other size · other scale / own scale + offset): equal in this case only
    equal = [a for a in named if a.scale == axis.scale and size.offset == 0]
    return equal[0].size if equal and not hasattr(equal[0].size, "axis_id") else None


def voxel_size(tensor: Any) -> dict[str, Any] | None:
    """Return the voxel size in nanometre, None if an axis has no known unit."""
    space = [a for a in tensor.axes if a.type == "space"]
    if any(a.unit not in _NANOMETRES for a in space):
        return None
    return {"unit": "nanometer"} | {str(a.id): a.scale * _NANOMETRES[a.unit] for a in space}


def steps_of(tensor: Any) -> list[dict[str, Any]]:
    """Return the preprocessing of an image as the steps of a bank.

    Statistics of each sample become those of the tile, statistics of a dataset those of the
    whole target; those over an axis of several channels are of the channels together.

    Raises
    ------
    ValueError
        If a bank cannot express a step.
    """
    steps = list(tensor.preprocessing)
    # A first cast to the type that raw data are stored in changes nothing.
    if steps and steps[0].id == "ensure_dtype" and steps[0].kwargs.dtype == _dtype(tensor):
        steps = steps[1:]
    return [_step(tensor, step) for step in steps if not _is_float_cast(step)]


def _dtype(tensor: Any) -> Any:
    return tensor.data[0].type if isinstance(tensor.data, list | tuple) else tensor.data.type


def _is_float_cast(step: Any) -> bool:
    return step.id == "ensure_dtype" and str(step.kwargs.dtype).startswith("float")


def _step(tensor: Any, step: Any) -> dict[str, Any]:
    kwargs = step.kwargs
    if step.id in ("scale_range", "zero_mean_unit_variance"):
        names = ("min_percentile", "max_percentile", "eps")
        numbers = {name: getattr(kwargs, name) for name in names if hasattr(kwargs, name)}
        together = {"channel_wise": False} if _over_channels(tensor, step) else {}
        return {"name": step.id, "kwargs": numbers | together, "scope": _scope(tensor, step)}
    if step.id in ("scale_linear", "fixed_zero_mean_unit_variance"):
        pair = ("gain", "offset") if step.id == "scale_linear" else ("mean", "std")
        return {"name": step.id, "kwargs": {name: _numbers(tensor, step, name) for name in pair}}
    if step.id == "clip" and kwargs.min_percentile is None and kwargs.max_percentile is None:
        return {"name": "clip", "kwargs": {"min": kwargs.min, "max": kwargs.max}}
    if step.id == "ensure_dtype":
        return {"name": "ensure_dtype", "kwargs": {"dtype": str(kwargs.dtype)}}
    name = "clip at percentiles" if step.id == "clip" else step.id
    raise ValueError(f"the preprocessing step {name} of the package is not known: {_REMEDY}")


def channels_of(tensor: Any) -> int:
    """Return how many channels a tensor has: 1 without such an axis."""
    return next((int(a.size) for a in tensor.axes if a.type == "channel"), 1)


def _over_channels(tensor: Any, step: Any) -> bool:
    """Tell whether a step takes its statistics over several channels; without axes, over all."""
    axes = step.kwargs.axes
    over = {str(a.id) for a in tensor.axes if a.type == "channel"}
    return channels_of(tensor) > 1 and (axes is None or bool(over & {str(a) for a in axes}))


def _scope(tensor: Any, step: Any) -> str:
    reference = getattr(step.kwargs, "reference_tensor", None)
    if reference is not None and str(reference) != str(tensor.id):
        raise ValueError(f"{step.id} takes its percentiles from {reference}: {_REMEDY}")
    if step.kwargs.axes is None:
        return "volume"
    axes = {str(a) for a in step.kwargs.axes}
    missing = {str(a.id) for a in tensor.axes if a.type == "space"} - axes
    if missing:
        raise ValueError(
            f"{step.id} of each plane along {', '.join(sorted(missing))} is not known: {_REMEDY}"
        )
    # statistics over the batch too are those of a data set
    return "volume" if "batch" in axes else "tile"


def _numbers(tensor: Any, step: Any, name: str) -> float | list[float]:
    """Return the number of a step; a list for each channel only where they differ."""
    value = getattr(step.kwargs, name)
    values = list(map(float, value)) if isinstance(value, list | tuple) else [float(value)]
    if len(set(values)) == 1:
        return values[0]
    axis = str(step.kwargs.axis)
    if axis not in {str(a.id) for a in tensor.axes if a.type == "channel"}:
        raise ValueError(f"{step.id} with another {name} along {axis} is not known: {_REMEDY}")
    return values


def _one(step: Any, name: str) -> float:
    value = getattr(step.kwargs, name)
    values = set(value) if isinstance(value, list | tuple) else {value}
    if len(values) != 1:
        raise ValueError(f"{step.id} with another {name} for each channel is not known: {_REMEDY}")
    return float(values.pop())


def output_of(model: Any, output: Output) -> dict[str, Any]:
    """Return how the output becomes a foreground probability, as the keys of ``output``.

    Parameters
    ----------
    model
        The description.
    output
        The bank's entry; where it names the activation, the postprocessing is not read.

    Raises
    ------
    ValueError
        If a bank cannot express the postprocessing.
    """
    tensor = model.outputs[place_of(model, output)]
    has_activation = "activation" in output.model_fields_set
    entry: dict[str, Any] = {} if has_activation else _activation(tensor)
    if len(model.outputs) > 1:
        entry["index"] = str(tensor.id)
    channels = [list(a.channel_names) for a in tensor.axes if a.type == "channel"]
    if channels and channels[0].count("foreground") == 1:
        entry["channel"] = [str(n) for n in channels[0]].index("foreground")
    return entry


def place_of(model: Any, output: Output) -> int:
    """Return which output is meant: the bank's, else the only one on the input's grid, or the 1st.

    Raises
    ------
    ValueError
        If the bank names one that is not there.
    """
    names = [str(tensor.id) for tensor in model.outputs]
    if isinstance(output.index, int) and -len(names) <= output.index < len(names):
        return output.index % len(names)
    if output.index is not None:
        if output.index not in names:
            raise ValueError(f"output.index {output.index!r} is not there: {', '.join(names)}")
        return names.index(str(output.index))
    on_grid = [n for n, t in enumerate(model.outputs) if _on_grid(model.inputs[0], t)]
    return on_grid[0] if len(on_grid) == 1 else 0


def _on_grid(image: Any, output: Any) -> bool:
    """Tell whether an output has the voxels of the image, its halo apart."""
    axes = {str(a.id): a for a in output.axes if a.type == "space"}
    ours = {str(a.id): a for a in image.axes if a.type == "space"}
    return axes.keys() == ours.keys() and all(a.scale == ours[n].scale for n, a in axes.items())


def _activation(tensor: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"activation": "none"}
    remaining = [p for p in tensor.postprocessing if not _is_float_cast(p)]
    if remaining and remaining[0].id in ("sigmoid", "softmax"):
        step = remaining.pop(0)
        if step.id == "softmax" and not _is_channel(tensor, step.kwargs.axis):
            raise ValueError(f"softmax along {step.kwargs.axis} is not known: {_REMEDY}")
        entry["activation"] = step.id
    while remaining and _changes_nothing(remaining[0], entry["activation"]):
        remaining.pop(0)
    if remaining and remaining[0].id == "binarize":
        entry["threshold"] = _one(remaining.pop(0), "threshold")
        # a cast after the threshold does not change the foreground
        remaining = [p for p in remaining if p.id != "ensure_dtype"]
    if remaining:
        raise ValueError(
            f"the postprocessing {', '.join(p.id for p in remaining)} of {tensor.id} is not known: "
            "say in the bank's output what its activation is"
        )
    return entry


def _is_channel(tensor: Any, axis: Any) -> bool:
    return any(a.type == "channel" and str(a.id) == str(axis) for a in tensor.axes)


def _changes_nothing(step: Any, activation: str) -> bool:
    """Tell whether a step leaves probabilities as they are: a clip to [0, 1] or wider."""
    if step.id != "clip" or activation == "none":
        return False
    low, high = step.kwargs.min, step.kwargs.max
    return (low is None or low <= 0) and (high is None or high >= 1)
