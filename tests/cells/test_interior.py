"""Distances, lobes and pallor against scipy, scikit-image and analytic shapes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage import measure
from skimage.morphology import local_maxima, reconstruction

from tests.cells.shapes import CASES, disc, lobes, ring
from wsi_pipeline.cells.interior import count_peaks, distance, pallor

masks = pytest.mark.parametrize("name", list(CASES))


@masks
def test_distance_equals_scipy(name):
    mask = CASES[name]
    expected = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    np.testing.assert_allclose(distance(mask), expected, rtol=1e-12)


@masks
@pytest.mark.parametrize("least", [0.503, 1.007, 2.011])
def test_peaks_are_the_h_maxima(name, least):
    """Against regional maxima of the reconstruction by dilation; not ``h_maxima``, which counts equal tops apart."""
    depth = np.pad(distance(CASES[name]), 1)
    flat = reconstruction(np.maximum(depth - least, 0), depth, footprint=np.ones((3, 3)))
    expected = measure.label(local_maxima(flat, connectivity=2), connectivity=2).max() if depth.max() >= least else 0
    assert count_peaks(depth, least) == expected


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("bridge", [0, 1, 3])
def test_lobes_are_counted(n, bridge):
    assert count_peaks(distance(lobes(n, 7, 18, bridge)), 1.6) == n


def test_a_band_is_one_lobe():
    assert count_peaks(distance(lobes(3, 7, 18, 13)), 1.6) == 1


@pytest.mark.parametrize("share", [0.3, 0.5, 0.65])
@pytest.mark.parametrize("centre", [0.0, 0.1, 0.2])
def test_pallor_of_a_doughnut(share, centre):
    radius = 30
    mask = disc(radius)
    density = np.where(ring(radius, share * radius), 0.4, centre).astype(np.float32)
    area, depth = pallor(density, distance(mask))
    assert depth == pytest.approx(1 - centre / 0.4, abs=0.03)
    assert area == pytest.approx(share**2, abs=0.02)


def test_no_pallor_of_even_dark_centred_or_empty_cells():
    depth = distance(disc(15))
    assert pallor(np.full(depth.shape, 0.3, np.float32), depth) == (0, 0)
    assert pallor(np.where(depth > 8, 0.6, 0.3).astype(np.float32), depth) == (0, 0)
    assert pallor(np.zeros(depth.shape, np.float32), depth) == (0, 0)
    noise = np.random.default_rng(0).normal(0.3, 0.02, depth.shape).astype(np.float32)
    assert pallor(noise, depth)[1] <= 0.1
