"""Windows and background colour."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.cells.windows import estimate_background, mirror, resample


@given(size=st.integers(1, 20), index=st.integers(-60, 60))
def test_mirror_walks_back_from_the_edge(size: int, index: int) -> None:
    position, step = 0, 1
    for _ in range(abs(index) if index >= 0 else abs(index) - 1):
        if not 0 <= position + step < size:
            step = -step  # the edge pixel is repeated
        else:
            position += step
    assert int(mirror(np.array([index]), size)[0]) == position


def test_same_scale_is_a_plain_crop() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 70, 3), dtype=np.uint8)
    assert (resample(image, 35, 30, side=20, scale=1.0) == image[20:40, 25:45]).all()


def test_beyond_the_edge_is_mirrored() -> None:
    image = np.zeros((20, 20, 3), dtype=np.uint8)
    image[:, :10] = 200
    window = resample(image, 0, 10, side=20, scale=1.0)
    assert (window[:, :10] == window[:, 19:9:-1]).all()
    assert (window[:, 5] == 200).all()


@pytest.mark.parametrize("mpp", [0.1, 0.198, 0.25, 0.4])
def test_a_disc_keeps_its_size_and_place(mpp: float) -> None:
    side = int(30 / mpp)
    y, x = np.mgrid[:side, :side] + 0.5
    disc = np.hypot(x - side / 2 - 2 / mpp, y - side / 2) * mpp < 5
    image = np.where(disc[..., None], 60, 240).astype(np.uint8).repeat(3, axis=2)
    window = resample(image, side / 2, side / 2, side=96, scale=0.25 / mpp)
    dark = window[..., 0] < 150
    assert dark.sum() * 0.25**2 == pytest.approx(np.pi * 25, rel=0.03)
    rows, columns = np.nonzero(dark)
    assert (columns.mean() + 0.5 - 48) * 0.25 == pytest.approx(2.0, abs=0.1)
    assert (rows.mean() + 0.5 - 48) * 0.25 == pytest.approx(0.0, abs=0.1)


def test_background_is_the_bright_colour_and_never_a_stain() -> None:
    image = np.full((50, 50, 3), (250, 225, 205), dtype=np.uint8)
    image[10:40, 10:40] = (90, 40, 140)
    assert estimate_background(image).tolist() == [250, 225, 205]
    image[:] = (250, 240, 140)  # an unbalanced lamp
    assert estimate_background(image).tolist() == [250, 240, 140]
    image[:] = (150, 90, 200)
    assert estimate_background(image).tolist() == [150, 150, 200]
    image[:] = (60, 30, 200)
    assert estimate_background(image).tolist() == [100, 100, 200]
