"""Normalisation: percentiles of a histogram, the same for every tile."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.segmentation.normalise import (
    MIN_RANGE,
    Normalisation,
    colour_histogram,
    normalisation_from_histogram,
)


def random_rgb(seed: int, shape: tuple[int, ...] = (40, 50, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@given(st.integers(0, 2**32 - 1), st.integers(1, 39))
def test_histograms_of_parts_add_up(seed: int, row: int) -> None:
    rgb = random_rgb(seed)
    whole = colour_histogram(rgb)
    np.testing.assert_array_equal(colour_histogram(rgb[:row]) + colour_histogram(rgb[row:]), whole)
    assert whole.sum(axis=1).tolist() == [2000] * 3
    assert whole[1, 7] == (rgb[..., 1] == 7).sum()


def test_bounds_are_the_percentiles() -> None:
    rgb = np.stack([np.arange(200, dtype=np.uint8)] * 3, axis=-1)
    found = normalisation_from_histogram(colour_histogram(rgb))
    assert found.low == (1.0,) * 3
    assert found.high == (197.0,) * 3
    np.testing.assert_allclose(found.low, np.percentile(rgb[:, 0], 1), atol=1)
    np.testing.assert_allclose(found.high, np.percentile(rgb[:, 0], 99), atol=1)


def test_empty_glass_is_not_stretched() -> None:
    found = normalisation_from_histogram(colour_histogram(np.full((10, 10, 3), 240, np.uint8)))
    assert found.low == (240 - MIN_RANGE,) * 3
    assert found.high == (240.0,) * 3
    noisy = np.full((100, 100, 3), 240, np.uint8) - random_rgb(0, (100, 100, 3)) // 64
    assert np.ptp(normalisation_from_histogram(colour_histogram(noisy)).apply(noisy)) < 0.1


@given(st.integers(0, 2**32 - 1), st.floats(-50, 100), st.floats(120, 300))
def test_apply_is_the_linear_map_clipped(seed: int, low: float, high: float) -> None:
    rgb = random_rgb(seed, (5, 6, 3))
    found = Normalisation(low=(low, 0.0, 10.0), high=(high, 255.0, 20.0)).apply(rgb)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[..., 0], np.clip((rgb[..., 0] - low) / (high - low), -0.5, 1.5), atol=1e-6)
    np.testing.assert_allclose(found[..., 2], np.clip((rgb[..., 2] - 10.0) / 10, -0.5, 1.5), atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.integers(0, 30))
def test_apply_knows_no_place(seed: int, y: int, x: int) -> None:
    rgb = random_rgb(seed)
    found = Normalisation(low=(3.0, 4.0, 5.0), high=(200.0, 210.0, 220.0))
    np.testing.assert_array_equal(found.apply(rgb[y:, x:]), found.apply(rgb)[y:, x:])


def test_it_is_cellposes_normalize99() -> None:
    from cellpose.transforms import normalize99

    rgb = np.clip(np.random.default_rng(0).normal(150, 40, (300, 300, 3)), 0, 255).astype(np.uint8)
    ours = normalisation_from_histogram(colour_histogram(rgb)).apply(rgb)
    for channel in range(3):
        theirs = normalize99(rgb[..., channel].astype(np.float32))
        assert np.abs(ours[..., channel] - np.clip(theirs, -0.5, 1.5)).max() < 0.02


def test_bounds_must_be_tuples_of_floats_for_the_ledger() -> None:
    found = normalisation_from_histogram(colour_histogram(random_rgb(1)))
    assert all(type(v) is float for v in (*found.low, *found.high))
    assert hash(found) == hash(Normalisation(low=found.low, high=found.high))
    with pytest.raises(AttributeError):
        found.low = (0.0, 0.0, 0.0)  # type: ignore[misc]
