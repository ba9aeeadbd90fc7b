"""Fixtures that every folder of tests shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from hypothesis import settings
from safetensors.torch import save_file

from cte_dask import arrays
from cte_dask.models.unet import UNet

REPOSITORY = Path(__file__).resolve().parents[1]
FEATURES = (4, 6, 8)

pytest_plugins = ["small_networks"]

torch.set_num_threads(1)
arrays.LOADING_NUMBA = 0.0  # tests run the kernels; tests/test_arrays.py tells when others do

# `make test` tries a few examples of each property, `make test-slow` all of them:
# HYPOTHESIS_PROFILE names the profile. No deadline, as the first example may compile a kernel, and
# in CI the same examples every time.
FEW_EXAMPLES, ALL_EXAMPLES = 15, 100
ALWAYS_THE_SAME = bool(os.environ.get("CI"))
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "dev")
for _name, _count in (("dev", FEW_EXAMPLES), ("ci", ALL_EXAMPLES)):
    settings.register_profile(
        _name, deadline=None, max_examples=_count, derandomize=ALWAYS_THE_SAME
    )
settings.load_profile(PROFILE)


def examples(count: int) -> settings:
    """Decorate a property that has its own number of examples; profile `dev` tries fewer."""
    return settings(max_examples=min(count, FEW_EXAMPLES) if PROFILE == "dev" else count)


SLOW = (
    "tests/benchmarks/test_paper_study.py",
    "tests/cli/test_every_format.py",
    "tests/cli/test_scales.py",
    "tests/cli/test_suggest.py",
    "tests/documents/test_commands.py",
    "tests/examples",
    "tests/faults",
    "tests/inference/test_memory.py",
    "tests/report/html/test_browser.py",
    "tests/report/maps/test_consensus_voxels.py",
    "tests/services",
    "tests/test_extension.py",
)
"""Folders and files of tests that are not run for every change; others are marked one by one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow by where it lies."""
    slow = [REPOSITORY / place for place in SLOW]
    for item in items:
        if any(item.path.is_relative_to(place) for place in slow):
            item.add_marker(pytest.mark.slow)


MAY_BE_SKIPPED = {"gpu"}
"""Marks of tests that CI need not run: there is no GPU."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """In CI a skip of what must run there is a failure."""
    report = yield
    marks = {mark.name for mark in item.iter_markers()}
    if os.environ.get("CI") and report.skipped and not marks & MAY_BE_SKIPPED:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(scope="session", autouse=True)
def _cache_of_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep out of the user's cache folder; commands that tests start do, too."""
    os.environ["CTE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, where nothing was kept yet."""
    monkeypatch.setenv("CTE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def quick_workers() -> Iterator[None]:
    """Let Dask fork its worker processes from one that has imported everything."""
    with processes.quick_workers():
        yield


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """A scheduler with two worker processes, for all tests that merely need some."""
    import dask
    from distributed import LocalCluster

    from cte_dask.engine.clusters.connection import SETTINGS

    settings = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with processes.quick_workers(), dask.config.set(SETTINGS):  # idle workers cost next to nothing
        cluster = LocalCluster(n_workers=2, threads_per_worker=1, **settings)
    with cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real labelled microscopy; absent it skips, but in CI it fails."""
    path = Path(os.environ.get("CTE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        message = f"no labelled microscopy at {path}: set CTE_DATA"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


def blobs(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Smooth random structure, uint8: something that a network responds to."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).standard_normal(shape)
    smooth = gaussian_filter(noise, (0, 3, 3))
    scaled = (smooth - smooth.min()) / np.ptp(smooth)
    return (40 + 180 * scaled).astype(np.uint8)


def write_model(
    path: Path, *, seed: int, dims: int = 2, features: tuple[int, ...] = FEATURES
) -> None:
    """Write a random U-Net whose foreground covers about half of a `blobs` image."""
    torch.manual_seed(10 + seed)  # with these, no network is dead
    network = UNet(dims=dims, features=features).eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Conv3d):
            torch.nn.init.kaiming_normal_(layer.weight)  # else nothing deep comes through
    image = blobs((1, 64, 64) if dims == 2 else (16, 32, 32), seed=1).astype(np.float32)
    x = torch.from_numpy((image - image.min()) / np.ptp(image)).reshape(1, 1, *image.shape[-dims:])
    with torch.no_grad():
        network.head.weight *= 2 / network(x).std()
        network.head.bias -= network(x).median()
    save_file(network.state_dict(), path)


def bank_text(
    names: list[str], *, dims: int = 2, halo: int = 8, features=FEATURES, extra=""
) -> str:
    """The bank.yaml of models written by `write_model`."""
    axes = "yx" if dims == 2 else "zyx"
    entries = []
    for name in names:
        entries.append(f"""
  {name}:
    format: state_dict
    source: {name}.safetensors
    architecture: cte_dask.models.unet:UNet
    arguments: {{dims: {dims}, features: {list(FEATURES)}}}
    axes: {axes}
    halo: {{{", ".join(f"{a}: {halo}" for a in axes)}}}
    preprocessing:
    - name: scale_range
      kwargs: {{min_percentile: 1, max_percentile: 99.8}}
      scope: volume
    output: {{channel: 0, activation: sigmoid, threshold: 0.5}}
{extra}""")
    return "schema: cte-bank/1\nmodels:" + "".join(entries)


def write_bank(folder: Path, count: int = 3, *, dims: int = 2, halo: int = 8) -> Path:
    """Write a bank of random U-Nets; returns the path of its bank.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"model-{i}" for i in range(count)]
    for seed, name in enumerate(names):
        write_model(folder / f"{name}.safetensors", seed=seed, dims=dims)
    path = folder / "bank.yaml"
    path.write_text(bank_text(names, dims=dims, halo=halo))
    return path


@pytest.fixture(scope="session")
def bank_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank of three random 2D U-Nets."""
    return write_bank(tmp_path_factory.mktemp("bank"))


@pytest.fixture(scope="session")
def image() -> np.ndarray:
    """A small volume, uint8 (z, y, x); its last tiles along y and x are cut."""
    return blobs((6, 88, 104))


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory, image: np.ndarray) -> Path:
    """`image` as OME-Zarr."""
    from cte_dask.volume import write_ome_zarr  # zarr, which tests of a GPU do without

    path = tmp_path_factory.mktemp("target") / "target.zarr"
    write_ome_zarr(path, image, axes="zyx", voxel_size_nm=(40.0, 10.0, 10.0), chunks=(2, 64, 64))
    return path
