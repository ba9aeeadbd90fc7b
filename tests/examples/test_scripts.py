"""Every script and notebook of the examples runs, on little data."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from troubled import cte

import cte_dask
from cte_dask.demo import LABELS, VOXEL_SIZE_NM, bank_path
from cte_dask.demo.simulate import simulate_nuclei
from cte_dask.volume import write_ome_zarr

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RUN_BY = {
    "cellpose_style.py": "test_label_models.py",
    "stardist_style.py": "test_label_models.py",
    "instance_training.py": "test_label_models.py, as a part of the two",
    "train_bank.py": "tests/demo/test_training.py",
    "label_tiles.py": "tests/documents/test_commands.py, as docs/how-to/few-labels.md has it",
    "make_em_target.py": "here",
    "paper_models.py": "tests/models/formats/test_pytorch3dunet.py",
    "plot_demo.py": "here",
    "picture_report.py": "here",
    "first_ranking.ipynb": "here",
}
PNG = b"\x89PNG\r\n"


def test_every_example_is_run_by_a_test():
    there = {p.name for p in EXAMPLES.iterdir() if p.suffix in (".py", ".ipynb")}
    assert there == set(RUN_BY)


def run_example(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script as `python examples/NAME` does."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_the_em_target_is_written_with_its_voxel_size_and_labels(tmp_path, monkeypatch):
    raw = np.arange(4 * 16 * 16, dtype=np.uint8).reshape(4, 16, 16)
    arrays = {"raw_test": raw, "label_test": raw > 9, "voxel_nm": np.full(3, 10.0)}
    np.savez(tmp_path / "v_epfl_iso10nm.npz", **arrays)
    run_example(
        "make_em_target.py", tmp_path / "em.zarr", "--data", tmp_path, monkeypatch=monkeypatch
    )
    volume = cte_dask.open_volume(str(tmp_path / "em.zarr"))
    assert volume.voxel_size.lengths == (10.0, 10.0, 10.0)
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), raw)
    labels = cte_dask.open_volume(str(tmp_path / "em.zarr" / "labels" / "mitochondria"))
    np.testing.assert_array_equal(labels.read((0, 0, 0), volume.shape), raw > 9)


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory) -> Path:
    """What `cte demo` leaves, of a smaller target and three of the models."""
    folder = tmp_path_factory.mktemp("demo-run")
    image, labels = simulate_nuclei((2, 128, 128), seed=0)
    write_ome_zarr(
        folder / "target.zarr",
        image,
        axes="zyx",
        voxel_size_nm=VOXEL_SIZE_NM,
        chunks=(1, 128, 128),
        labels={LABELS: labels},
    )
    entries = yaml.safe_load(bank_path().read_text())
    names = ("nuclei-blurry", "nuclei-large360", "nuclei-highmag")
    chosen = {name: entries["models"][name] for name in names}
    for entry in chosen.values():
        entry["source"] = str(bank_path().parent / entry["source"])
    (folder / "bank.yaml").write_text(yaml.safe_dump({**entries, "models": chosen}))
    words = ["--bank", folder / "bank.yaml", "--out", folder / "run", "--tile", "1,64,64"]
    done = cte("rank", folder / "target.zarr", *words, "--cluster", "none", "--quiet")
    assert done.exit_code == 0, done.output
    return folder


def test_the_demonstration_is_drawn(demo_run, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "pictures" / "demo.png"
    run_example("plot_demo.py", demo_run, picture, "--plane", 1, monkeypatch=monkeypatch)
    assert picture.read_bytes().startswith(PNG)


def test_a_report_is_photographed_for_desktop_and_phone(demo_run, tmp_path, monkeypatch):
    pytest.importorskip("playwright")
    if not shutil.which("chromium"):
        pytest.skip("no Chromium: make services")
    assert cte("report", demo_run / "run", "--quiet").exit_code == 0
    run_example(
        "picture_report.py", demo_run / "run" / "report.html", tmp_path, monkeypatch=monkeypatch
    )
    sizes = {path.stem: size_of(path) for path in tmp_path.glob("*.png")}
    assert set(sizes) == {"report-answer", "report-desktop", "report-gallery", "report-phone"}
    assert sizes["report-desktop"][0] == 1240
    assert sizes["report-phone"][0] == 2 * 390
    assert sizes["report-answer"][1] < sizes["report-desktop"][1]


def size_of(png: Path) -> tuple[int, int]:
    header = png.read_bytes()[16:24]
    return int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")


def test_the_notebook_runs_from_top_to_bottom_and_is_kept_without_outputs(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    path = EXAMPLES / "first_ranking.ipynb"
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert path.stat().st_size < 20_000
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3")
    client.execute(cwd=str(tmp_path))
    told = [o for cell in code for o in cell.outputs]
    ranked = "".join(o.text for o in told if o.output_type == "stream")
    assert "1. nuclei-" in ranked
    assert "4. nuclei-" in ranked
    pictures = [o for o in told if "image/png" in o.get("data", {})]
    assert len(pictures) == 2
