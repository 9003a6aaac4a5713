"""Distances, lobes and pallor against scipy, scikit-image and analytic shapes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage import measure
from skimage.morphology import local_maxima, reconstruction

from tests.cells.shapes import CASES, disc, lobes, ring
from wsi_pipeline.cells.interior import count_peaks, distance, pale_part, pallor, ring_densities

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


def test_rings_run_from_the_rim_to_the_middle():
    depth = distance(disc(30))
    even = ring_densities(np.full(depth.shape, 0.3, np.float32), depth)
    np.testing.assert_allclose(even, 1, rtol=1e-5)
    target = np.where((depth > 0.75 * depth.max()) | (depth < 0.5 * depth.max()), 0.4, 0.1).astype(np.float32)
    found = ring_densities(target, depth)
    assert found[7] == found[6] == pytest.approx(found[0])
    assert found[5] == found[4] == pytest.approx(found[0] / 4)
    inside = depth > 0
    assert found[0] == pytest.approx(0.4 / target[inside].mean(), rel=1e-5)
    assert np.isnan(ring_densities(np.zeros(depth.shape, np.float32), depth)).all()
    assert np.isnan(ring_densities(np.full((5, 5), 0.3, np.float32), distance(disc(1, margin=1)))).any()


def test_the_pale_part_is_a_slit_in_a_stomatocyte_and_off_the_middle_in_a_blister():
    mask = disc(30)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]] - np.array(mask.shape)[:, None, None] // 2
    depth = distance(mask)

    def pale(where):
        return pale_part(np.where(where, 0.1, 0.4 + 1e-3 * np.hypot(y, x)).astype(np.float32), depth)

    slit, offset = pale((abs(y) <= 3) & (abs(x) <= 14))
    assert slit < 0.5
    assert offset < 0.02
    round_, centred = pale(np.hypot(y, x) <= 7.5)
    assert round_ > 0.95
    assert centred < 0.02
    assert pale(np.hypot(y, x - 7) <= 7.5)[1] == pytest.approx(7 / 30, abs=0.02)
    assert np.isnan(pale_part(np.full((3, 3), 0.3, np.float32), distance(np.ones((3, 3), bool)))).all()
