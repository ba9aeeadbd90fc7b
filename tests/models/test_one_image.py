"""One image of the input's extent comes of whatever a network gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import odd_outputs
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cte_dask.models.loading import load_network
from cte_dask.models.one_image import OneImage
from cte_dask.models.spec import ModelSpec

Make = Callable[..., ModelSpec]

X = torch.rand(2, 1, 32, 48)
FULL, HALF = torch.rand(2, 3, 32, 48), torch.rand(2, 3, 16, 24)


def python(make: str, **keys: object) -> ModelSpec:
    entry = {"name": "odd", "format": "python", "source": f"odd_outputs:{make}", "trust": True}
    return ModelSpec.model_validate(entry | keys)


@pytest.mark.parametrize("form", odd_outputs.FORMS)
def test_the_output_that_alone_has_the_inputs_extent_is_taken_in_every_form(form: str) -> None:
    network = load_network(python("formed", arguments={"form": form}))
    with torch.no_grad():
        assert torch.equal(network.forward(X), odd_outputs.formed("image")(X))


def test_which_output_is_taken_is_said() -> None:
    for output, note in (
        ([HALF, FULL], "takes output 1 of 2: it alone has the input's extent"),
        ({"masks": [FULL, HALF]}, "takes output masks.0 of 2: it alone has the input's extent"),
        ({"logits": HALF, "loss": FULL.mean()}, "takes output logits of 2: it alone is an image"),
    ):
        image = OneImage()
        image(output, X)
        assert image.notes[0] == note
    plain = OneImage()
    plain(FULL, X)
    assert plain.notes == ()


def test_outputs_between_which_nothing_tells_are_listed_with_their_shapes() -> None:
    with pytest.raises(ValueError, match=r"name one with output\.index") as caught:
        OneImage()({"a": FULL, "b": [FULL, HALF]}, X)
    assert str(caught.value) == (
        "it gives 'a' (2, 3, 32, 48), 'b.0' (2, 3, 32, 48), 'b.1' (2, 3, 16, 24), of which 2 have "
        "the input's extent: name one with output.index"
    )
    with pytest.raises(ValueError, match="of which none have the input's extent"):
        OneImage()([HALF, HALF], X)
    with pytest.raises(ValueError, match="gives a str: no output is a tensor"):
        OneImage()("an image", X)


def test_an_index_names_an_output_or_what_holds_it() -> None:
    output = {"a": FULL, "b": [FULL + 1, HALF]}
    assert torch.equal(OneImage("a")(output, X), FULL)
    assert torch.equal(OneImage("b")(output, X), FULL + 1)
    assert torch.equal(OneImage("b.0")(output, X), FULL + 1)
    assert torch.equal(OneImage(-1)([FULL, FULL + 2], X), FULL + 2)
    assert OneImage("b.1")(output, X).shape == FULL.shape
    with pytest.raises(ValueError, match=r"output.index 'c' is not there: it gives 'a' \(2, 3"):
        OneImage("c")(output, X)


@pytest.mark.parametrize(("shape", "coarse"), [((32, 48), (8, 12)), ((6, 32, 32), (6, 16, 16))])
def test_a_fraction_of_the_resolution_is_interpolated_at_the_centres_of_voxels(
    shape: tuple[int, ...], coarse: tuple[int, ...]
) -> None:
    x, logits = torch.rand(2, 1, *shape), torch.randn(2, 3, *coarse)
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    image = OneImage()
    got = image(logits, x)
    assert torch.equal(got, functional.interpolate(logits, shape, mode=mode, align_corners=False))
    factor = "4" if len(shape) == 2 else "1×2×2"
    assert image.notes == (f"its output has 1/{factor} of the resolution: interpolated",)
    ramp = torch.arange(coarse[-1]).expand(2, 3, *coarse).float()
    want = (torch.arange(shape[-1]) + 0.5) * coarse[-1] / shape[-1] - 0.5
    inner = slice(shape[-1] // coarse[-1], -(shape[-1] // coarse[-1]))
    torch.testing.assert_close(
        OneImage()(ramp, x)[0, 0, ..., 0, inner].reshape(-1, len(want[inner]))[0], want[inner]
    )


def test_labels_at_a_fraction_of_the_resolution_are_repeated() -> None:
    labels = torch.randint(0, 9, (2, 1, 8, 12)).float()
    got = OneImage(nearest=True)(labels, X)
    assert torch.equal(got[..., ::4, ::4], labels)
    assert set(got.unique().tolist()) == set(labels.unique().tolist())


@pytest.mark.parametrize(
    "shape", [(2, 3, 30, 46), (2, 3, 1, 1), (2, 3), (1, 3, 32, 48), (2, 3, 16, 48)]
)
def test_what_is_no_map_of_the_input_is_left_for_the_check_that_refuses_it(
    shape: tuple[int, ...],
) -> None:
    x, output = torch.rand(2, 1, 64, 96) if shape[-1] == 1 else X, torch.rand(shape)
    assert OneImage()(output, x) is output


@pytest.mark.parametrize("way", ["script", "graph"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_saved_programs_of_several_outputs_give_one_image(
    way: str, tmp_path: Path, spec_of: Make
) -> None:
    network = odd_outputs.formed("reversed")
    if way == "script":
        torch.jit.save(torch.jit.trace(network, X[:1]), tmp_path / "n.pt")
        spec = spec_of(tmp_path / "n.pt", format="torchscript")
    else:
        torch.export.save(torch.export.export(network, (X,)), tmp_path / "n.pt2")
        spec = spec_of(tmp_path / "n.pt2", format="torch_export")
    with torch.no_grad():
        got: Tensor = load_network(spec).forward(X)
        torch.testing.assert_close(got, odd_outputs.formed("image")(X))


def test_channels_that_stand_last_are_turned_at_both_ends() -> None:
    network = load_network(python("channels_last_in", layout="channels_last"))
    with torch.no_grad():
        assert torch.equal(network.forward(X), odd_outputs.formed("image")(X))
    assert network.adaptations == (
        "it takes images with their channels last",
        "its output has its channels last",
    )
