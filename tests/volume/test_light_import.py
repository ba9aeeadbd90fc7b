from __future__ import annotations

import subprocess
import sys


def test_importing_the_package_imports_no_array_or_network_library() -> None:
    code = (
        "import sys; import cte_dask.volume; "
        "heavy = {'torch', 'dask', 'distributed', 'zarr', 'fsspec', 'numpy'} & set(sys.modules); "
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stderr.strip()) == (0, "")


def test_opening_a_zarr_imports_neither_torch_nor_dask_nor_other_formats(tmp_path) -> None:
    code = (
        "import sys, zarr; from cte_dask.volume import open_volume; "
        f"zarr.create_array({str(tmp_path / 'a')!r}, shape=(4, 4), dtype='u1'); "
        f"open_volume({str(tmp_path / 'a')!r}).read((0, 0, 0), (1, 4, 4)); "
        "heavy = {'torch', 'dask', 'distributed', 'h5py', 'mrcfile', 'tifffile', 'imagecodecs'}; "
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stderr.strip()) == (0, "")


def test_an_unknown_name_is_an_attribute_error() -> None:
    import cte_dask.volume

    assert not hasattr(cte_dask.volume, "nothing")
    assert all(hasattr(cte_dask.volume, name) for name in cte_dask.volume.__all__)
