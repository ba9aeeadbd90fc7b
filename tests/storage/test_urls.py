"""Which strings are URLs, and how object stores become known to fsspec."""

from __future__ import annotations

import subprocess
import sys

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cte_dask.storage import PROTOCOLS, is_url, register
from cte_dask.storage.files import KINDS
from cte_dask.storage.stores import is_remote


@pytest.mark.parametrize(
    ("target", "url", "remote"),
    [
        ("s3://bucket/a.zarr", True, True),
        ("zip::https://host/a.zip", True, True),
        ("file:///data/a.zarr", True, False),
        ("/data/a.zarr", False, False),
        ("/data/a::b.zarr", False, False),
        ("a.zarr", False, False),
    ],
)
def test_urls_are_told_from_paths_and_from_what_is_on_this_machine(target, url, remote):
    assert (is_url(target), is_remote(target)) == (url, remote)


def test_object_stores_are_ours_though_another_library_came_first():
    for protocol in PROTOCOLS:
        fsspec.register_implementation(protocol, MemoryFileSystem, clobber=True)
    register()
    assert all(fsspec.get_filesystem_class(p) is getattr(KINDS, p) for p in PROTOCOLS)


def test_reading_a_bank_loads_neither_zarr_nor_obstore():
    code = (
        "from cte_dask import demo, load_bank; load_bank(demo.bank_path()); import sys; "
        "print(sorted({'zarr', 'obstore'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
