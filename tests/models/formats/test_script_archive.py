"""A TorchScript archive that could do more than compute is refused before anything of it runs."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cte_dask.models.formats.script_archive import refuse_graphs, refuse_operators

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*:DeprecationWarning",
    "ignore:.*quantiz.*",
    "ignore::UserWarning",
    "ignore::torch.jit.TracerWarning",
)

Rewrite = Callable[..., bytes]


class Plain(nn.Module):
    """Its source has one place where an attack can be written in."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.w


class Various(nn.Module):
    """Norms, activations, loops, branches, containers, padding and resampling."""

    def __init__(self) -> None:
        super().__init__()
        norms = (nn.BatchNorm2d(8), nn.InstanceNorm2d(8, affine=True), nn.GroupNorm(2, 8))
        acts = (nn.PReLU(), nn.GELU(), nn.LeakyReLU(0.1, inplace=True), nn.SiLU(), nn.ELU())
        self.first = nn.Conv2d(1, 8, 3, padding="same", padding_mode="reflect")
        self.layers = nn.ModuleList([nn.Sequential(*norms), nn.Sequential(*acts, nn.Dropout2d())])
        self.ops = nn.ConvTranspose2d(8, 8, 2, 2)  # the name of torch's own table of operators
        self.last = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise ValueError(f"an image has 4 axes, not 'inside' of {x.dim()}\n")
        y = self.first(x)
        for layer in self.layers:
            y = layer(y) + y
        y = torch.cat([y, self.ops(functional.max_pool2d(y, 2))], 1)[:, :8]
        y = functional.interpolate(functional.avg_pool2d(y, 2), size=[32, 32], mode="bilinear")
        parts: list[Tensor] = []
        while len(parts) < 2:
            parts.append(torch.fft.ifft2(torch.fft.fft2(y)).real)
        y = torch.stack(parts).amax(0).clamp_(min=float("-inf"))
        y[torch.isnan(y)] = 0.0
        return torch.sigmoid(self.last(functional.pad(y, [1, 1, 1, 1], mode="replicate")))


class Attentive(nn.Module):
    """A transformer, recurrent layers, einsum and attention by hand."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.patches, self.encoder = nn.Conv2d(1, 8, 4, 4), nn.TransformerEncoder(layer, 1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.lstm, self.norm = nn.LSTM(8, 8, batch_first=True), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.encoder(self.patches(x).flatten(2).transpose(1, 2))
        y = self.norm(self.attention(y, y, y)[0] + self.lstm(y)[0])
        weights = torch.einsum("bik,bjk->bij", y, y).softmax(-1)
        return functional.scaled_dot_product_attention(weights @ y, y, y)


class AtLoad(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.w, self.path = torch.ones(1), path

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, str, bool]:
        return self.w, self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, str, bool]) -> None:
        self.w, self.path, self.training = state
        torch.save(self.w, self.path)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.w


def _quantised() -> nn.Module:
    quantise, dequantise = torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()
    layers = nn.Sequential(quantise, nn.Conv2d(1, 4, 3), nn.ReLU(), dequantise).eval()
    layers.qconfig = torch.ao.quantization.get_default_qconfig("x86")
    torch.ao.quantization.prepare(layers, inplace=True)
    layers(torch.rand(1, 1, 8, 8))
    return torch.ao.quantization.convert(layers)


def _archive(module: torch.jit.ScriptModule) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    return buffer.getvalue()


def _traced(network: nn.Module) -> torch.jit.ScriptModule:
    return torch.jit.trace(network, torch.rand(1, 1, 32, 32), check_trace=False)


def _frozen(network: nn.Module) -> torch.jit.ScriptModule:
    return torch.jit.freeze(torch.jit.script(network))


@pytest.fixture(scope="module")
def plain() -> bytes:
    return _archive(torch.jit.script(Plain()))


@pytest.fixture
def rewrite(plain: bytes) -> Rewrite:
    """Return the archive with lines put into its forward, or entries changed or added."""

    def build(lines: str = "", **entries: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(plain)) as old, zipfile.ZipFile(buffer, "w") as new:
            root = old.namelist()[0].partition("/")[0]
            texts = {name: old.read(name) for name in old.namelist()}
            place = b"    w = self.w\n"
            (code,) = (name for name, text in texts.items() if place in text and name[-3:] == ".py")
            inserted = "".join(f"    {line}\n" for line in lines.split("\n") if line)
            texts[code] = texts[code].replace(place, inserted.encode("latin-1") + place)
            texts |= {f"{root}/{name}": content for name, content in entries.items()}
            for name, content in texts.items():
                new.writestr(name, content)
        return buffer.getvalue()

    return build


@pytest.mark.parametrize(
    ("network", "make"),
    [
        (Various, torch.jit.script),
        (Various, _traced),
        (Various, _frozen),
        (Attentive, _traced),
        pytest.param(Attentive, torch.jit.script, marks=pytest.mark.slow),
        pytest.param(Attentive, _frozen, marks=pytest.mark.slow),
    ],
)
def test_ordinary_networks_need_no_trust(
    network: type[nn.Module], make: Callable[[nn.Module], torch.jit.ScriptModule]
) -> None:
    archive = _archive(make(network().eval()))
    refuse_operators(archive)
    refuse_graphs(torch.jit.load(io.BytesIO(archive)))


def test_quantised_networks_need_no_trust() -> None:
    archive = _archive(torch.jit.script(_quantised()))
    refuse_operators(archive)
    refuse_graphs(torch.jit.load(io.BytesIO(archive)))


# Where a file is named, torch itself runs the line and writes the file.
ATTACKS = {
    "an operator": 'torch.save(x, "FILE")',
    "an operator by its namespace": 'ops.aten.save(x, "FILE")',
    "another name for an operator": 'f = torch.save\nf(x, "FILE")',
    "another name for all operators": 't = torch\nt.save(x, "FILE")',
    "another name for a namespace": 'p = ops.aten\np.save(x, "FILE")',
    "a nested namespace": 'torch.autograd.save(x, "FILE")',
    "an attribute by its name": 'getattr(torch, "save")(x, "FILE")',
    "an attribute of a namespace": 'getattr(ops, "aten").save(x, "FILE")',
    "a name in pieces": 'getattr(torch, "sa" "ve")(x, "FILE")',
    "a name with escapes": 'getattr(torch, "\\163ave")(x, "FILE")',
    "a name over lines": '(torch\n    .save)(x, "FILE")',
    "a continued line": 'torch.\\\n    save(x, "FILE")',
    "a text that hides a line": "y = '\"'\n" + 'torch.save(x, "FILE")#"',
    "three quotes": 'y = """a"""\ntorch.save(x, "FILE")',
    "a name that begins in a word": 'z = "a" not inops.aten.save(x, "FILE")',
    "a method of a value": 'x.save("FILE")',
    "a comment that is a type": "# type: (Tensor) -> Tensor",
    "a mapped file": 'y = torch.from_file("FILE", True, 9)',
    "another library": "ops.mine.conv2d(x)",
    "a profiler": 'h = ops.profiler._record_function_enter("a", None)',
    "a class in C++": "c = __torch__.torch.classes._nnapi.Compilation()",
    "another name for classes": "c = __torch__.torch\nd = c.classes._nnapi.Compilation()",
    "memory of others": "y = torch.set_(x, x)",
    "the generator": "torch.manual_seed(3)",
    "a sign outside of ASCII": "\xe9 = x",
}


@pytest.mark.parametrize("lines", ATTACKS.values(), ids=ATTACKS)
def test_what_does_more_than_compute_is_refused_with_its_place(
    lines: str, rewrite: Rewrite, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"in code/__torch__.*\.py.* needs trust: true"):
        refuse_operators(rewrite(lines.replace("FILE", str(tmp_path / "file"))))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lines", list(ATTACKS.values())[:15], ids=list(ATTACKS)[:15])
def test_the_attacks_are_real(lines: str, rewrite: Rewrite, tmp_path: Path) -> None:
    archive = rewrite(lines.replace("FILE", str(tmp_path / "file")))
    try:
        torch.jit.load(io.BytesIO(archive))(torch.ones(2))
    except (RuntimeError, TypeError):
        assert "inops" not in lines
    assert (tmp_path / "file").exists()


def test_the_refusal_names_operator_and_line(rewrite: Rewrite) -> None:
    with pytest.raises(ValueError, match=r"aten::save in code/__torch__.*\.py, line 9, is not"):
        refuse_operators(rewrite('torch.save(x, "file")'))


def test_what_runs_at_load_is_read_first(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    archive = _archive(torch.jit.script(AtLoad(str(canary))))
    with pytest.raises(ValueError, match="aten::save in code/__torch__"):
        refuse_operators(archive)
    assert not canary.exists()
    torch.jit.load(io.BytesIO(archive))  # the attack is real
    assert canary.exists()


@pytest.mark.parametrize(
    ("entries", "cause"),
    [
        ({"data.pkl": pickle.dumps(print, protocol=2)}, "builtin.*print in data.pkl"),
        ({"data.pkl": pickle.dumps(print, protocol=4)}, "FRAME in data.pkl"),
        (
            {"constants.pkl": b"\x80\x02c__torch__.torch.classes._nnapi\nCompilation\n."},
            "_nnapi.Compilation in constants.pkl",
        ),
        ({"data.pkl": b"\x80\x02X\xff"}, "data.pkl of the TorchScript archive"),
        ({"model.json": b"{}"}, "the entry 'model.json'"),
        ({"code/other.PY": b""}, "the entry 'code/other.PY'"),
        ({"DATA.pkl": b""}, "two entries of the same name"),
        ({"code/other.py": b"def f():\n  torch.save(1, 'x')\n"}, "in code/other.py, line 2"),
    ],
)
def test_entries_that_torch_does_not_write_are_refused(
    entries: dict[str, bytes], cause: str, rewrite: Rewrite
) -> None:
    with pytest.raises(ValueError, match=cause):
        refuse_operators(rewrite(**entries))


def test_an_entry_outside_of_the_archives_folder_is_refused(plain: bytes) -> None:
    buffer = io.BytesIO(plain)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("elsewhere/code/__torch__.py", "")
    with pytest.raises(ValueError, match="not a TorchScript archive"):
        refuse_operators(buffer.getvalue())


def test_graphs_are_checked_again_after_loading(rewrite: Rewrite) -> None:
    module = torch.jit.load(io.BytesIO(rewrite('if True:\n    torch.save(x, "file")')))
    with pytest.raises(ValueError, match=r"the operator aten::save in the network\.forward"):
        refuse_graphs(module)
