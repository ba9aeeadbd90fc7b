"""Each way in which torch.export.load can be made to run code, tried on a real archive."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cte_dask.models.formats.pt2_archive import refuse_code
from cte_dask.models.loading import load_network
from cte_dask.models.spec import ModelSpec
from cte_dask.models.unet import UNet

Entries = dict[str, bytes]


def saved(network: UNet, dims: int = 2) -> bytes:
    free = dict.fromkeys((0, *range(2, dims + 2)), torch.export.Dim.DYNAMIC)
    x = torch.rand(2, 1, *(8,) * dims)
    buffer = io.BytesIO()
    program = torch.export.export(network.eval(), (x,), dynamic_shapes=(free,))
    torch.export.save(program, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def entries() -> Entries:
    buffer = io.BytesIO(saved(UNet(dims=2, features=(4, 8))))
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(entries: Entries) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def ending(entries: Entries, tail: str) -> str:
    return next(name for name in entries if name.endswith(tail))


def edited(entries: Entries, tail: str, edit: Callable[[Any], object]) -> bytes:
    name = ending(entries, tail)
    data = json.loads(entries[name])
    edit(data)
    return packed(entries | {name: json.dumps(data).encode()})


def refused(content: bytes) -> str:
    with pytest.raises(ValueError, match="needs trust: true") as caught:
        refuse_code(content)
    return str(caught.value)


def test_an_ordinary_archive_passes(entries: Entries) -> None:
    refuse_code(packed(entries))


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["batch", "group", "instance", None])
@pytest.mark.parametrize("upsample", ["transpose", "nearest"])
def test_every_u_net_of_the_package_passes(dims: int, norm: str | None, upsample: str) -> None:
    network = UNet(dims=dims, features=(2, 4), norm=norm, upsample=upsample)
    refuse_code(saved(network, dims))


def test_extents_named_as_multiples_pass(unet: UNet, tmp_path: Path) -> None:
    half = torch.export.Dim("half", min=2, max=64)
    shapes = ({2: 2 * half, 3: 2 * torch.export.Dim("other", min=2, max=64)},)
    program = torch.export.export(unet, (torch.rand(1, 1, 16, 16),), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "m.pt2")
    refuse_code((tmp_path / "m.pt2").read_bytes())


def test_a_guard_of_python_source_is_refused_and_would_have_run(
    entries: Entries, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    evil = f"__import__('pathlib').Path('{mark}').touch() is None"
    content = edited(entries, "model.json", lambda d: d["guards_code"].append(evil))
    assert "guards_code" in refused(content)
    (tmp_path / "evil.pt2").write_bytes(content)
    keys = {"name": "evil", "format": "torch_export", "source": str(tmp_path / "evil.pt2")}
    with pytest.raises(ValueError, match=r"model 'evil': guards_code .* needs trust: true"):
        load_network(ModelSpec.model_validate(keys))
    assert not mark.exists()
    trusted = load_network(ModelSpec.model_validate(keys | {"trust": True}))
    trusted.forward(torch.zeros(2, 1, 32, 32))
    assert mark.exists(), "the payload of this test does nothing"


@pytest.mark.parametrize(
    "guard",
    [
        "L['image'].__class__",
        "print(1)",
        "L[print].size()",
        "(lambda: 1)()",
        "[x for x in L]",
        "L['image'].size()[0] == 2) # ",
        'L["image"].size()[0] == 2',
        "exec",
        "max.__self__",
        "L['image'].size(print)",
        "max(1, open)",
    ],
)
def test_guards_are_comparisons_of_sizes_only(entries: Entries, guard: str) -> None:
    refused(edited(entries, "model.json", lambda d: d["guards_code"].append(guard)))


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').getcwd()",
        "Symbol('x').func",
        "sympify('1')",
        "Symbol(\"print('x')\")",
        "[1][0]",
        "lambda: 1",
        "x.y",
        "(",
    ],
)
def test_symbolic_sizes_are_arithmetic_only(entries: Entries, expression: str) -> None:
    def edit(data: Any) -> None:
        values = data["graph_module"]["graph"]["tensor_values"]
        values["image"]["sizes"][0] = {"as_expr": {"expr_str": expression, "hint": None}}

    assert "expr_str" in refused(edited(entries, "model.json", edit))


@pytest.mark.parametrize(
    "target",
    [
        "torch.serialization.os.system",
        "torch.load",
        "_operator.methodcaller",
        "math.__loader__.load_module",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.mine.op.default",
        "torch.ops.aten.relu.default.__class__.x",
        "#ext.op",
    ],
)
def test_only_torchs_own_operators_are_resolved(entries: Entries, target: str) -> None:
    def edit(data: Any) -> None:
        data["graph_module"]["graph"]["nodes"][3]["target"] = target

    assert "target" in refused(edited(entries, "model.json", edit))


def test_names_that_would_be_written_into_source_are_plain(entries: Entries) -> None:
    def edit(data: Any) -> None:
        data["graph_module"]["graph"]["inputs"][0]["as_tensor"]["name"] = "x=print(1)"

    refused(edited(entries, "model.json", edit))


def test_tree_types_that_import_modules_are_refused(entries: Entries) -> None:
    def edit(data: Any) -> None:
        spec = [1, {"type": "collections.namedtuple", "context": "null", "children_spec": []}]
        data["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps(spec)

    assert "in_spec" in refused(edited(entries, "model.json", edit))


def test_pickled_weights_and_constants_are_refused(entries: Entries) -> None:
    def edit(data: Any) -> None:
        next(iter(data["config"].values()))["use_pickle"] = True

    assert "pickled" in refused(edited(entries, "model_weights_config.json", edit))


def test_a_sample_input_that_must_be_unpickled_is_refused(entries: Entries) -> None:
    name = ending(entries, "sample_inputs/model.pt")
    assert "sample input" in refused(packed(entries | {name: b"\x80\x02cos\nsystem\n."}))


@pytest.mark.parametrize(
    "record",
    [
        "data/weights/model.pt",
        "data/constants/custom_obj_0",
        "data/constants/opaque_obj_0",
        "data/aotinductor/model/model.so",
        "models/other.json",
    ],
)
def test_entries_of_other_kinds_are_refused(entries: Entries, record: str) -> None:
    root = next(iter(entries)).split("/")[0]
    assert record in refused(packed(entries | {f"{root}/{record}": b"x"}))


def test_the_older_layout_is_refused(entries: Entries) -> None:
    assert "torch 2.7" in refused(packed(entries | {"version": b"8.2"}))
