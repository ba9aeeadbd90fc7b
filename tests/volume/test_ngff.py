from __future__ import annotations

import math
from typing import Any

import pytest

from cte_dask.volume import VolumeError, VoxelSize
from cte_dask.volume.ngff import Multiscale, parse_multiscales


def ome(axes: Any, steps: Any, *, image_steps: Any = None, **more: Any) -> dict[str, Any]:
    datasets = [{"path": "s0", "coordinateTransformations": steps}]
    image = {"axes": axes, "datasets": datasets}
    if image_steps is not None:
        image["coordinateTransformations"] = image_steps
    return {"ome": {"version": "0.5", "multiscales": [image], **more}}


def space(unit: str | None = "micrometer", names: str = "zyx") -> list[dict[str, str]]:
    more = {} if unit is None else {"unit": unit}
    return [{"name": name, "type": "space", **more} for name in names]


def parsed(attributes: dict[str, Any]) -> Multiscale:
    [multiscale] = parse_multiscales(attributes)
    return multiscale


def test_the_scales_of_dataset_and_image_multiply_and_units_become_nanometre() -> None:
    steps = [{"type": "scale", "scale": [2, 0.5, 0.25]}]
    image = parsed(ome(space(), steps, image_steps=[{"type": "scale", "scale": [1, 2, 4]}]))
    assert image.axes == "zyx"
    assert image.levels[0].path == "s0"
    assert image.levels[0].voxel_size == VoxelSize(2000, 1000, 1000)
    assert not image.notes


def test_translations_are_kept_in_voxels_of_the_level() -> None:
    steps = [
        {"type": "scale", "scale": [2, 2, 2]},
        {"type": "translation", "translation": [1, 0, 3]},
    ]
    further = [
        {"type": "scale", "scale": [10, 10, 10]},
        {"type": "translation", "translation": [0, 40, 0]},
    ]
    assert parsed(ome(space(), steps, image_steps=further)).levels[0].offset == (0.5, 2.0, 1.5)


@pytest.mark.parametrize(
    ("unit", "problem"), [(None, "no unit"), ("parsec", "unknown unit 'parsec'")]
)
def test_a_unit_that_is_not_known_leaves_the_voxel_size_open_and_says_so(
    unit: str | None, problem: str
) -> None:
    image = parsed(ome(space(unit), [{"type": "scale", "scale": [1, 1, 1]}]))
    assert image.levels[0].voxel_size is None
    assert any(problem in note for note in image.notes)
    assert "the voxel size is not known" in image.notes
    assert image.levels[0].scale == (1.0, 1.0, 1.0)


def test_only_the_axis_without_a_unit_is_open() -> None:
    axes = [*space(None, "z"), *space("nm", "yx")]
    image = parsed(ome(axes, [{"type": "scale", "scale": [1, 4, 4]}]))
    assert image.levels[0].voxel_size == VoxelSize(None, 4, 4)
    assert len(image.notes) == 1


def test_five_axes_and_channel_names_are_read() -> None:
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}, *space("nanometer")]
    channels = {"channels": [{"label": "DAPI"}, {"label": "actin"}]}
    steps = [{"type": "scale", "scale": [1, 1, 30, 10, 10]}]
    image = parsed(ome(axes, steps, omero=channels))
    assert image.axes == "tczyx"
    assert image.channels == ("DAPI", "actin")
    assert image.levels[0].voxel_size == VoxelSize(30, 10, 10)


def test_old_versions_without_axes_or_scales_are_read() -> None:
    old = {"multiscales": [{"version": "0.1", "datasets": [{"path": "0"}, {"path": "1"}]}]}
    image = parsed(old)
    assert (image.axes, len(image.levels)) == ("tczyx", 2)
    assert image.levels[1].voxel_size is None
    named = {
        "multiscales": [{"version": "0.3", "axes": ["z", "y", "x"], "datasets": [{"path": "0"}]}]
    }
    assert parsed(named).axes == "zyx"


@pytest.mark.parametrize("output", ["physical", {"name": "physical"}])
@pytest.mark.parametrize("axes", ["zyx", "tczyx"])
def test_axes_of_a_coordinate_system_and_steps_of_a_sequence_are_read(
    output: Any, axes: str
) -> None:
    more = [0] * (len(axes) - 3)
    steps = [
        {"type": "scale", "scale": [1 for _ in more] + [2, 0.5, 0.25]},
        {"type": "translation", "translation": [*more, 1, 0, 0.5]},
    ]
    whole = {"type": "sequence", "transformations": steps, "input": "s0", "output": output}
    image = ome(space(names=axes), [whole])
    [multiscale] = image["ome"]["multiscales"]
    other = {"name": "world", "axes": space("furlong", "abc")}
    multiscale["coordinateSystems"] = [other, {"name": "physical", "axes": multiscale.pop("axes")}]
    # leads on to another coordinate system
    turned = {"type": "rotation", "rotation": [[0, 1], [1, 0]]}
    multiscale["coordinateTransformations"] = [{**turned, "input": "physical", "output": "world"}]
    read = parsed(image)
    assert read.axes == axes
    assert read.levels[0].voxel_size == VoxelSize(2000, 500, 250)
    assert read.levels[0].offset == (0.5, 0, 2)


def test_axes_with_other_names_are_left_open() -> None:
    axes = [{"name": "row", "type": "space"}, {"name": "column", "type": "space"}]
    assert parsed(ome(axes, [{"type": "scale", "scale": [1, 1]}])).axes is None


def test_attributes_without_an_image_hold_none() -> None:
    assert parse_multiscales({}) == ()
    assert parse_multiscales({"ome": {"version": "0.5", "labels": ["a"]}}) == ()


@pytest.mark.parametrize(
    "attributes",
    [
        {"multiscales": []},
        {"multiscales": "image"},
        {"multiscales": [{}]},
        {"multiscales": [{"datasets": []}]},
        {"multiscales": [{"datasets": [{"name": "0"}]}]},
        ome(space(), [{"type": "scale", "scale": [1, 1]}]),
        ome(space(), [{"type": "scale", "scale": [1, 1, math.nan]}]),
        ome(space(), [{"type": "scale", "scale": [1, 1, 0]}]),
        ome(space(), [{"type": "scale", "scale": [1, 1, -2]}]),
        ome(space(), [{"type": "scale", "scale": ["a", "b", "c"]}]),
        ome(space(), [{"type": "affine", "affine": []}]),
        ome([{"type": "space"}] * 3, []),
    ],
)
def test_malformed_metadata_is_an_error(attributes: dict[str, Any]) -> None:
    with pytest.raises(VolumeError) as caught:
        parse_multiscales(attributes)
    assert "Error(" not in str(caught.value), "words, not Python's own form of an error"
