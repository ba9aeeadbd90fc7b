"""Feature perturbation: the right layer, the right masks, the encoder once, the same numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from golden import cases
from hypothesis import given
from hypothesis import strategies as st
from monai.networks.nets import BasicUNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cte_dask.inference.graph import feature_path as module_of_paths
from cte_dask.inference.graph.bottleneck import BlackBoxError, bottleneck_module, hooked
from cte_dask.inference.graph.feature_path import Plain, Split, bottleneck_of, feature_path
from cte_dask.inference.graph.proving import is_same
from cte_dask.models.network import Network
from cte_dask.models.unet import UNet
from cte_dask.perturb import philox
from cte_dask.perturb.dropout import channel_mask


def network(module: nn.Module, kind: str = "module") -> Network:
    return Network(forward=module.eval().requires_grad_(False), kind=kind)


def unet(dims: int = 2) -> UNet:
    torch.manual_seed(0)
    return UNet(dims=dims, features=(4, 6, 8)).eval().requires_grad_(False)


def monai_unet() -> nn.Module:
    torch.manual_seed(0)
    return BasicUNet(
        spatial_dims=2, in_channels=1, out_channels=1, features=(4, 4, 8, 8, 8, 4)
    ).eval()


def tile(dims: int = 2, extent: int = 32) -> Tensor:
    return torch.rand(2, 1, *(extent,) * dims, generator=torch.Generator().manual_seed(1))


def masks_for(path, x: Tensor, seed: int = 0) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    return [
        torch.from_numpy(rng.random((len(x), c), np.float32)).reshape(
            len(x), c, *(1,) * (x.ndim - 2)
        )
        for c in path.channels
    ]


def assert_same(got: Tensor, want: Tensor) -> None:
    """To rounding: folded batch norms and fused activations round elsewhere."""
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


class Functional(nn.Module):
    """A U-Net in miniature with functional ops, a reused module and in-place activations."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.weight = nn.Parameter(torch.randn(6, 4, 3, 3))
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(10, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.first(x), inplace=True)
        deep = F.conv2d(self.pool(skip), self.weight, padding=1)
        deep = self.pool(F.relu_(deep))
        up = F.interpolate(deep, scale_factor=4.0)
        return self.last(torch.cat([skip.mul_(0.5), up], 1))


class SqueezeExcite(nn.Module):
    """An encoder with a global pooling that must not be taken for the bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.squeeze, self.excite = nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1)
        self.deep = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 1, 4, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return self.up(self.deep(x * torch.sigmoid(self.excite(self.squeeze(x)))))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_bottleneck_of_our_unet_is_its_deepest_encoder(dims):
    assert bottleneck_of(network(unet(dims)), tile(dims, 16)) == ("encoders.2",)


def test_the_bottleneck_of_monai_basic_unet_is_its_last_down():
    assert bottleneck_of(network(monai_unet()), tile()) == ("down_4",)


def test_a_module_called_twice_is_perturbed_at_the_deep_call_only():
    assert bottleneck_of(network(Functional()), tile()) == ("pool@1",)


def test_global_pooling_is_not_a_bottleneck():
    assert bottleneck_module(SqueezeExcite().eval(), tile()) == "deep"


class UnusedStage(nn.Module):
    """Pools once more than it uses, as encoders do whose stages all end alike."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.deep, self.deeper = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.up = nn.ConvTranspose2d(8, 1, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        deep = self.deep(x)
        self.deeper(deep)
        return self.up(deep)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("kind", ["module", "script"])
def test_a_layer_that_nothing_uses_is_not_a_bottleneck(kind):
    module = network(UnusedStage()).forward
    own = Network(forward=torch.jit.script(module) if kind == "script" else module, kind=kind)
    path = feature_path(own, tile())
    assert path.layers == (("deep",) if kind == "module" else ("convolution",))
    assert (type(path), path.note) == (Split, "")
    x, masks = tile(), [torch.zeros(len(tile()), 8, 1, 1)]
    assert not torch.allclose(path.decode(path.encode(x), masks), module(x))


class LabelledOutside(nn.Module):
    """Counts the objects of what it predicts, which torch does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = unet()

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy((self.inner(x).numpy() > 0).astype(np.float32))


def test_layers_in_front_of_what_torch_does_not_run_are_not_unused(monkeypatch):
    looked = []

    def look(*args, **options):
        looked.append(options)
        return bottleneck_module(*args, **options)

    monkeypatch.setattr(module_of_paths, "bottleneck_module", look)
    module = LabelledOutside()
    path = feature_path(network(module), tile())
    assert isinstance(path, Plain)
    assert "does not run in torch" in path.note
    assert path.layers == (f"inner.{bottleneck_module(module.inner, tile())}",)
    assert len(looked) == 1


def test_a_network_without_bottleneck_is_a_black_box():
    with pytest.raises(BlackBoxError, match="no layer's output is smaller"):
        bottleneck_of(network(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())), tile())


def test_an_unknown_layer_is_named_with_what_there_is():
    with pytest.raises(ValueError, match=r"no layer 'encoder\.7'.*encoders\.0"):
        feature_path(network(unet()), tile(), names=("encoder.7",))


def test_an_opaque_network_is_a_black_box():
    with pytest.raises(BlackBoxError, match="black box"):
        feature_path(network(unet(), "opaque"), tile())


@pytest.mark.parametrize("make", [unet, lambda: unet(3), monai_unet, SqueezeExcite])
def test_the_encoder_is_shared_and_gives_what_the_plain_passes_give(make):
    module = make().eval().requires_grad_(False)
    x = tile(3 if module is not None and getattr(module, "dims", 2) == 3 else 2)
    path = feature_path(network(module), x)
    assert path.note == ""
    masks = masks_for(path, x)
    with torch.inference_mode():
        state = path.encode(x)
        ones = [torch.ones_like(m) for m in masks]
        assert_same(path.decode(state, ones), module(x))
        with hooked(module, path.layers, lambda i, y: y * masks[i]):
            want = module(x)
        assert_same(path.decode(state, masks), want)
        # the kept state was not spoilt
        assert torch.equal(path.decode(state, masks), path.decode(path.encode(x), masks))


def test_in_place_changes_of_a_skip_fall_back_to_plain_passes_or_stay_right():
    module = Functional().eval().requires_grad_(False)
    x = tile()
    path = feature_path(network(module), x)
    masks = masks_for(path, x)
    with torch.inference_mode():
        state = path.encode(x)
        for _ in range(2):
            with hooked(module, path.layers, lambda i, y: y * masks[i]):
                want = module(x)
            assert_same(path.decode(state, masks), want)


def test_a_network_that_cannot_be_traced_runs_plainly_and_says_so():
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv2d(1, 4, 3, stride=2, padding=1)
            self.up = nn.ConvTranspose2d(4, 1, 2, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.down(x)
            return self.up(y) if float(y.mean()) > -1e9 else self.up(-y)

    module = Branching().eval().requires_grad_(False)
    x = tile()
    path = feature_path(network(module), x)
    assert path.note.startswith("encoder not shared: ")
    masks = masks_for(path, x)
    with hooked(module, path.layers, lambda i, y: y * masks[i]):
        want = module(x)
    assert torch.equal(path.decode(path.encode(x), masks), want)


def test_a_mistake_of_our_own_is_not_blamed_on_the_network(monkeypatch):
    monkeypatch.setattr(module_of_paths, "cut", None)
    with pytest.warns(RuntimeWarning, match="please report: TypeError"):
        path = feature_path(network(unet()), tile())
    assert isinstance(path, Plain)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("form", ["script", "trace", "export"])
def test_torchscript_and_exported_programs_are_grey_boxes_with_the_same_numbers(form):
    module, x = unet(), tile()
    if form == "export":
        opened = Network(forward=torch.export.export(module, (x,)).module(), kind="graph")
    else:
        made = torch.jit.script(module) if form == "script" else torch.jit.trace(module, x)
        opened = Network(forward=made, kind="script")
    path, plain = feature_path(opened, x), feature_path(network(module), x)
    assert path.channels == plain.channels
    masks = masks_for(path, x)
    with torch.inference_mode():
        got = path.decode(path.encode(x), masks)
        want = plain.decode(plain.encode(x), masks)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


def flops(run) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


def encoder_flops(module: nn.Module, layer: str, x: Tensor) -> int:
    """FLOPs up to the end of a layer, found by stopping the plain pass there."""

    class Reached(Exception):
        pass

    def stop(_i: int, _y: Tensor) -> Tensor:
        raise Reached

    def run() -> None:
        with hooked(module, (layer,), stop):
            try:
                module(x)
            except Reached:
                return
        raise AssertionError

    return flops(run)


def decoder_flops(module: nn.Module, x: Tensor, monkeypatch) -> tuple[int, int]:
    """FLOPs of the first convolutions of decoders that go into the skips, joined first.

    And those that a pass saves: what enlarges the other half and the convolution are one.
    """
    shares: dict[int, float] = {}
    enlarged: dict[object, tuple[nn.Module, int]] = {}
    found, saved = [0], [0]
    join = torch.cat

    def cat(tensors, dim=0):
        joined = join(tensors, dim)
        shares[joined.data_ptr()] = tensors[0].shape[dim] / joined.shape[dim]
        if tensors[1].shape in enlarged:  # by shape: MONAI pads by nothing, a copy
            enlarged[joined.data_ptr()] = enlarged[tensors[1].shape]
        return joined

    def enlarge(layer, inputs, output) -> None:
        enlarged[output.shape] = layer, inputs[0].numel() // inputs[0].shape[1]

    def count(layer, inputs, output) -> None:
        if not (share := shares.pop(inputs[0].data_ptr(), 0)):
            return
        whole = 2 * output.numel() * layer.weight[0].numel()
        found.append(round(whole * share))
        if given := enlarged.get(inputs[0].data_ptr()):
            up, voxels = given
            sizes = zip(layer.kernel_size, up.stride, strict=True)
            merged = math.prod(k + f - 1 for k, f in sizes) * up.in_channels * layer.out_channels
            saved.append(whole - found[-1] + 2 * voxels * (up.weight.numel() - merged))

    kinds = {
        (nn.Conv2d, nn.Conv3d): count,
        (nn.ConvTranspose2d, nn.ConvTranspose3d): enlarge,
    }
    handles = [
        layer.register_forward_hook(hook)
        for layer in module.modules()
        for kind, hook in kinds.items()
        if isinstance(layer, kind)
    ]
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(torch, "cat", cat)
        module(x)
    for handle in handles:
        handle.remove()
    return sum(found), sum(saved)


def test_a_path_that_is_made_in_inference_mode_is_fused_too():
    """There PyTorch shows operations that are made of others."""
    module, x = unet(2).eval().requires_grad_(False), tile(2, 32)
    with torch.inference_mode():
        path = feature_path(network(module), x)
    assert path.once is not None


@pytest.mark.parametrize("draws", [1, 4])
@pytest.mark.parametrize(
    ("make", "dims"),
    [
        (lambda: unet(2), 2),
        (lambda: unet(3), 3),
        (lambda: UNet(dims=2, features=(4, 6, 8, 10)), 2),
        (lambda: UNet(dims=3, features=(4, 6, 8, 10)), 3),
        (monai_unet, 2),
    ],
    ids=["ours-2d-3", "ours-3d-3", "ours-2d-4", "ours-3d-4", "monai"],
)
def test_a_tile_costs_one_encoder_and_one_decoder_a_pass(make, dims, draws, monkeypatch):
    """Less, a pass, what its convolutions do with the skip connections: that is done once.

    And less what it saves where enlarging and convolving are one.
    """
    module = make().eval().requires_grad_(False)
    x = tile(dims, 32 if dims == 2 else 16)
    path = feature_path(network(module), x)
    whole = flops(lambda: module(x))
    encoder = encoder_flops(module, path.layers[0], x)
    decoder = whole - encoder
    skips, saved = decoder_flops(module, x, monkeypatch)
    assert 0 < encoder < whole
    assert 0 < skips < skips + saved < decoder

    def run() -> None:
        state = path.encode(x)
        for seed in range(1 + draws):
            path.decode(state, masks_for(path, x, seed))

    run()  # what a bias gives at the border is found by the first pass
    assert flops(run) == encoder + skips + (1 + draws) * (decoder - skips - saved)


@given(
    channels=st.integers(1, 300),
    rate=st.floats(0, 0.99),
    mode=st.sampled_from(["bernoulli", "fixed"]),
    seed=st.integers(0, 2**32),
)
def test_a_mask_drops_whole_maps_and_scales_the_rest(channels, rate, mode, seed):
    mask = channel_mask(channels, rate, mode=mode, key=philox.key(seed, "dropout"))
    kept = np.float32(1 / (1 - rate))
    assert mask.dtype == np.float32
    assert mask.shape == (channels,)
    assert set(np.unique(mask)) <= {np.float32(0), kept}
    if mode == "fixed":
        assert (mask == 0).sum() == max(1, round(rate * channels))


def test_bernoulli_drops_at_its_rate():
    masks = [channel_mask(64, 0.2, mode="bernoulli", key=philox.key(0, i)) for i in range(500)]
    dropped = np.mean(np.stack(masks) == 0)
    assert abs(dropped - 0.2) < 4 * np.sqrt(0.2 * 0.8 / (64 * 500))


@pytest.mark.parametrize("case", cases("DROPOUT"))
def test_golden_dropout_scales_kept_maps_by_one_over_one_minus_p(case):
    """The authors' draws are torch's; what is ours to match is how a draw becomes multipliers."""
    params = case["params"]
    if "uniform_range" in params:
        return  # multiplicative feature noise is no perturbation of ours
    rate = params.get("p", params.get("proportion"))
    want = np.asarray(case["independent"]["value"], np.float32)
    mode = "bernoulli" if "p" in params else "fixed"
    mask = channel_mask(want.shape[-1], rate, mode=mode, key=philox.key(1))
    np.testing.assert_allclose(np.unique(mask), np.unique(want), atol=case["tolerance"])


def test_fixed_dropout_rounds_where_the_authors_code_rounds_up():
    """0.05 of 128 maps: round(6.4) = 6, not 7."""
    mask = channel_mask(128, 0.05, mode="fixed", key=philox.key(1))
    assert (mask == 0).sum() == 6


@pytest.mark.parametrize("name", ["nuclei-fibro256", "nuclei-rpe1"])
def test_a_trained_network_shares_its_encoder_and_is_fused(name):
    from cte_dask.demo import bank_path
    from cte_dask.models import load_bank
    from cte_dask.models.loading import load_network

    spec = next(m for m in load_bank(str(bank_path())) if m.name == name)
    loaded, x = load_network(spec), tile(extent=64)
    path = feature_path(loaded, x)
    assert path.note == ""
    assert not any("batch_norm" in str(n.target) for n in path.prefix.graph.nodes)
    masks = masks_for(path, x)
    with torch.inference_mode():
        with hooked(loaded.forward, path.layers, lambda i, y: y * masks[i]):
            want = loaded.forward(x)
        torch.testing.assert_close(path.decode(path.encode(x), masks), want, rtol=1e-4, atol=1e-3)


def exhausted(*_args, **_options):
    raise torch.OutOfMemoryError("CUDA out of memory.")


def test_a_lack_of_memory_is_no_reason_to_run_another_way(monkeypatch):
    """The batch is halved then, and the passes are shared as ever."""
    network = Network(forward=UNet(dims=2, features=(4, 6)).eval(), kind="module")
    x = torch.rand(2, 1, 16, 16)
    path = feature_path(network, x)
    monkeypatch.setattr(module_of_paths, "cut", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        feature_path(network, x)
    monkeypatch.setattr(type(path), "run", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        is_same(path, x, [], x)
