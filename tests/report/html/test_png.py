"""Pictures: what a PNG reader that is not ours reads back."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from cte_dask.report.html.gallery import png, png_uri


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (64, 33), (5, 7, 3), (1, 9, 3)])
def test_a_reader_finds_the_same_pixels(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    read = np.asarray(Image.open(io.BytesIO(png(pixels))))
    np.testing.assert_array_equal(read, pixels)


def test_a_data_uri_holds_the_file():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    head, _, data = png_uri(pixels).partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == png(pixels)


def test_smooth_images_are_small():
    ramp = np.add.outer(np.arange(256), np.arange(256)).astype(np.uint8)
    assert len(png(ramp)) < 0.02 * ramp.size


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((2, 2)), np.zeros(4, np.uint8), np.zeros((2, 2, 4), np.uint8)],
    ids=["floats", "one dimension", "four channels"],
)
def test_other_arrays_are_refused(pixels):
    with pytest.raises(ValueError, match=r"must be uint8 of shape"):
        png(pixels)
