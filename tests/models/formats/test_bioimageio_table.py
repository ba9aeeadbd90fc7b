"""What of a package's description is honoured, and what is refused and why: a table of the docs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bioimageio_packages as made
import pytest
import torch
from torch import nn

from cte_dask.errors import reason
from cte_dask.inference.needs import with_extents
from cte_dask.models.described import described
from cte_dask.models.spec import ModelSpec
from cte_dask.models.unet import UNet

pytest.importorskip("bioimageio.spec")

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "bioimageio.md"
Document = dict[str, Any]
Change = Callable[[Document], object]


def unchanged(_: Document) -> None:
    pass


@dataclass(frozen=True)
class Package:
    """An example package: what is special about it, and how its document comes about."""

    says: str
    change: Change = unchanged
    keys: Document = field(default_factory=dict)
    older: bool = False
    two: bool = False
    colours: bool = False


class TwoOutputs(nn.Module):
    """A network that gives its image at half of the resolution first."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.network(x)
        return nn.functional.avg_pool2d(image, 2), image


def sizes(size: object, **by_axis: object) -> Change:
    """Give the input's spatial axes another size."""

    def change(document: Document) -> None:
        for axis in document["inputs"][0]["axes"]:
            if axis["type"] == "space":
                axis["size"] = by_axis.get(axis["id"], size)

    return change


def batch_of_one(document: Document) -> None:
    document["inputs"][0]["axes"][0]["size"] = 1


def second_output(document: Document) -> None:
    coarse = copy.deepcopy(document["outputs"][0]) | {"id": "coarse"}
    for axis in coarse["axes"][2:]:
        axis["scale"] = 0.2
        del axis["halo"]
    document["outputs"].insert(0, coarse)


def time_axis(document: Document) -> None:
    time = {"type": "time", "id": "time", "size": 1, "unit": "second", "scale": 1.0}
    document["inputs"][0]["axes"][0] = time


def second_input(document: Document) -> None:
    document["inputs"].append(copy.deepcopy(document["inputs"][0]) | {"id": "prompt"})


def keras(document: Document) -> None:
    document["weights"] = {"keras_hdf5": {"source": "a.h5"}}


def own_architecture(document: Document) -> None:
    foreign = {"import_from": "somewhere.else", "callable": "Net"}
    document["weights"]["pytorch_state_dict"]["architecture"] = foreign


def pre(step: str, **kwargs: object) -> Document:
    return {"pre": [{"id": step, "kwargs": kwargs}]}


def post(*steps: tuple[str, Document | None]) -> Document:
    return {"post": [{"id": n} if k is None else {"id": n, "kwargs": k} for n, k in steps]}


def named(step: str, **kwargs: object) -> Document:
    return {"pre": [{"name": step, "kwargs": kwargs}]}


PACKAGES = (
    Package("axes `bcyx`, sizes `{min: 32, step: 2}`, a halo of 8 in the output"),
    Package("sizes `{min: 37, step: 2}`", sizes({"min": 37, "step": 2})),
    Package("a fixed size, 64", sizes(64)),
    Package("axes `byxc`", keys={"order": "byxc"}),
    Package("a batch of one image", batch_of_one),
    Package("two outputs, one on the input's grid", second_output, two=True),
    Package(
        "standardised per sample and channel", keys=pre("zero_mean_unit_variance", axes=["y", "x"])
    ),
    Package(
        "standardised per sample", keys=pre("zero_mean_unit_variance", axes=["channel", "y", "x"])
    ),
    Package("standardised over the data set", keys=pre("zero_mean_unit_variance")),
    Package("percentiles of a sample", keys=pre("scale_range", axes=["y", "x"])),
    Package("percentiles of the data set", keys=pre("scale_range", axes=["batch", "y", "x"])),
    Package("percentiles along one axis alone", keys=pre("scale_range", axes=["x"])),
    Package(
        "a fixed mean and deviation", keys=pre("fixed_zero_mean_unit_variance", mean=0.4, std=0.3)
    ),
    Package(
        "three channels, a mean and deviation for each",
        keys=pre(
            "fixed_zero_mean_unit_variance", axis="channel", mean=[0.5, 0.4, 0.3], std=[0.2] * 3
        ),
        colours=True,
    ),
    Package(
        "three channels, a gain for each",
        keys=pre("scale_linear", axis="channel", gain=[1.0, 0.5, 2.0]),
        colours=True,
    ),
    Package(
        "three channels, standardised together",
        keys=pre("zero_mean_unit_variance", axes=["channel", "y", "x"]),
        colours=True,
    ),
    Package(
        "three channels, standardised one by one",
        keys=pre("zero_mean_unit_variance", axes=["y", "x"]),
        colours=True,
    ),
    Package(
        "three channels, percentiles of a sample together",
        keys=pre("scale_range", axes=["channel", "y", "x"], min_percentile=1.0),
        colours=True,
    ),
    Package(
        "three channels, the range of the data set together",
        keys=pre("scale_range", axes=["batch", "channel", "y", "x"]),
        colours=True,
    ),
    Package(
        "three channels, percentiles of the data set together",
        keys=pre("scale_range", axes=["batch", "channel", "y", "x"], min_percentile=1.0),
        colours=True,
    ),
    Package(
        "one channel, three means",
        keys=pre(
            "fixed_zero_mean_unit_variance", axis="channel", mean=[0.5, 0.4, 0.3], std=[0.2] * 3
        ),
    ),
    Package(
        "a mean for each row",
        keys=pre("fixed_zero_mean_unit_variance", axis="y", mean=[0.5, 0.4], std=[0.2] * 2),
    ),
    Package("clipping at percentiles", keys=pre("clip", min_percentile=1.0, max_percentile=99.0)),
    Package("a binary image as input", keys=pre("binarize", threshold=0.5)),
    Package(
        "postprocessing `sigmoid`, `binarize`",
        keys=post(("sigmoid", None), ("binarize", {"threshold": 0.3})),
    ),
    Package("postprocessing `softmax` over channels", keys=post(("softmax", {"axis": "channel"}))),
    Package("postprocessing `scale_linear`", keys=post(("scale_linear", {"gain": 255.0}))),
    Package("version 0.4: axes, parametrised shape, halo", older=True),
    Package(
        "version 0.4: a fixed shape with a halo",
        keys={"shape": [1, 1, 64, 64], "output_shape": [1, 1, 64, 64]},
        older=True,
    ),
    Package(
        "version 0.4: `zero_mean_unit_variance`, `mode: per_sample`",
        keys=named("zero_mean_unit_variance", mode="per_sample", axes="xy"),
        older=True,
    ),
    Package(
        "version 0.4: `scale_range`, `mode: per_dataset`",
        keys=named(
            "scale_range", mode="per_dataset", axes="xy", min_percentile=1.0, max_percentile=99.0
        ),
        older=True,
    ),
    Package(
        "version 0.4: three channels, `mode: fixed`, `axes: xy`",
        keys=named(
            "zero_mean_unit_variance", mode="fixed", axes="xy", mean=[0.5, 0.4, 0.3], std=[0.2] * 3
        ),
        older=True,
        colours=True,
    ),
    Package(
        "version 0.4: three channels, `mode: per_sample`, `axes: cxy`",
        keys=named("zero_mean_unit_variance", mode="per_sample", axes="cxy"),
        older=True,
        colours=True,
    ),
    Package("a time axis", time_axis),
    Package("two images as inputs", second_input),
    Package("only Keras weights", keras),
    Package("a state dict of an architecture of its own", own_architecture),
)


@pytest.fixture(scope="module")
def network() -> UNet:
    torch.manual_seed(1)
    return UNet(dims=2, features=(4, 8)).eval()


def written(package: Package, folder: Path, network: UNet) -> ModelSpec:
    kind = "torchscript" if package.two else "pytorch_state_dict"
    given = TwoOutputs(network) if package.two else network
    names = ("red", "green", "blue") if package.colours else ("raw",)
    if package.colours:
        given = UNet(dims=2, features=(4, 8), in_channels=3).eval()
    weights = {kind: made.weights_of(kind, folder, given, channels=len(names))}
    make = made.description_0_4 if package.older else made.description
    document = make(folder, weights=weights, inputs=names, **package.keys)
    if package.older:
        made.as_of_0_4(weights["pytorch_state_dict"])
    package.change(document)
    made.write_rdf(folder, document)
    spec = ModelSpec(name="zoo", format="bioimageio", source=str(folder))
    return spec.model_copy(update={"channels": ("rgb",)}) if package.colours else spec


def outcome(spec: ModelSpec) -> str:
    """Return what comes of a package, in a line."""
    try:
        spec, network = with_extents(described(spec))
    except ValueError as error:
        return f"refused: {reason(error).removeprefix(f'model {spec.name!r}: ')}"
    output = spec.output
    scopes = {"tile": " of the tile", "volume": " of the whole target"}
    measured = ("scale_range", "zero_mean_unit_variance")
    steps = [
        f"`{s.name}`{scopes[s.scope] if s.name in measured else ''}"
        f"{' over all channels' if s.joint else ' of each channel' if s.lists else ''}"
        for s in spec.preprocessing
    ]
    facts = [
        f"halo {spec.halo['y']}" if spec.halo else "halo measured",
        f"takes {spec.extent['y']} alone" if spec.extent else f"multiple {spec.multiple_zyx[1]}",
        *([f"batches of {network.fixed_batch}"] if network.fixed_batch else []),
        *([f"output `{output.index}`"] if output.index else []),
        *steps,
        *([] if output.activation == "none" else [f"`{output.activation}`"]),
        *([f"threshold {output.threshold:g}"] if output.threshold != 0.5 else []),
    ]
    return ", ".join(facts)


def table(outcomes: dict[str, str]) -> str:
    rows = (f"| {says} | {text} |" for says, text in outcomes.items())
    return "\n".join(("| The description has | What comes of it |", "|---|---|", *rows))


@pytest.mark.slow
def test_the_table_of_the_docs_says_what_comes_of_each_example(
    tmp_path: Path, network: UNet
) -> None:
    outcomes = {}
    for number, package in enumerate(PACKAGES):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcomes[package.says] = outcome(written(package, folder, network))
    expected = table(outcomes)
    assert expected in PAGE.read_text(), f"the page should have\n\n{expected}\n"


def test_warnings_of_a_description_are_one_note(
    tmp_path: Path,
    network: UNet,
    recwarn: pytest.WarningsRecorder,
    capfd: pytest.CaptureFixture[str],
) -> None:
    _, loaded = with_extents(described(written(Package("0.4", older=True), tmp_path, network)))
    (note,) = [n for n in loaded.notes if "warn" in n or "missing" in n]
    assert "Conversion of channel size from an implicit output shape may be wrong" in note
    assert "pytorch_version: missing" in note
    assert "FAIR" not in note
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")
