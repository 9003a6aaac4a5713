"""Texture kernels against scikit-image and scipy on the same masked pixels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.feature import graycomatrix, graycoprops

from tests.cells.shapes import CASES
from wsi_pipeline.cells.texture import GREY_LEVELS, cooccurrence, gaussian_kernel, pair_offsets, spot_energy

ANGLES = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
PROPERTIES = ("contrast", "homogeneity", "energy", "correlation", "entropy")


def levels_of(mask, seed=0):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).uniform(-60, 90, mask.shape), 0.7)
    return np.clip(noise + 16, 0, GREY_LEVELS - 1).astype(np.uint8)


def reference_glcm(levels, mask, distance):
    """scikit-image's matrices with the outside as a level of its own, which is then dropped."""
    outside = np.where(mask, levels + 1, 0).astype(np.uint8)
    counts = graycomatrix(outside, [distance], ANGLES, levels=GREY_LEVELS + 1, symmetric=True)[1:, 1:].astype(float)
    counts = counts[..., counts.sum(axis=(0, 1))[0] > 0]
    shares = counts / counts.sum(axis=(0, 1))
    return np.array([graycoprops(shares, name).mean() for name in PROPERTIES])


@pytest.mark.parametrize("distance", [1, 2, 3, 5])
@pytest.mark.parametrize("name", [n for n in CASES if n != "pixel"])
def test_cooccurrence_equals_scikit_image(name, distance):
    mask = CASES[name]
    levels = levels_of(mask)
    found = cooccurrence(levels, mask, pair_offsets(distance))
    counts = graycomatrix(mask.astype(np.uint8), [distance], ANGLES, levels=2)[1, 1]
    if counts.sum() == 0:
        assert np.isnan(found).all()
        return
    expected = reference_glcm(levels, mask, distance)
    expected[4] /= np.log(2)  # scikit-image's entropy is in nats
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_pixels_outside_the_mask_do_not_count():
    mask = CASES["blob 1"]
    levels = levels_of(mask)
    other = np.where(mask, levels, levels_of(mask, 5)).astype(np.uint8)
    offsets = pair_offsets(2)
    np.testing.assert_array_equal(cooccurrence(levels, mask, offsets), cooccurrence(other, mask, offsets))


def test_one_level():
    mask = CASES["disc"]
    found = cooccurrence(np.full(mask.shape, 7, np.uint8), mask, pair_offsets(1))
    np.testing.assert_allclose(found, [0, 1, 1, 1, 0], atol=1e-12)


def test_a_turn_by_90_degrees_changes_nothing():
    mask = CASES["blob 2"]
    levels = levels_of(mask)
    offsets = pair_offsets(2)
    turned = cooccurrence(np.rot90(levels).copy(), np.rot90(mask).copy(), offsets)
    np.testing.assert_allclose(turned, cooccurrence(levels, mask, offsets), rtol=1e-12)


@pytest.mark.parametrize("sigmas", [(0.6, 1.2), (1.0, 2.0), (0.3, 0.5), (2.5, 5.0)])
@pytest.mark.parametrize("name", list(CASES))
def test_spot_energy_equals_scipy(name, sigmas):
    mask = CASES[name]
    values = np.random.default_rng(3).uniform(0, 1, mask.shape).astype(np.float32)

    def smooth(sigma):
        inside, weight = (
            ndimage.gaussian_filter(v.astype(np.float64), sigma, mode="constant", truncate=4)
            for v in (np.where(mask, values, 0), mask)
        )
        return inside[mask] / weight[mask]

    expected = np.sqrt(np.mean((smooth(sigmas[0]) - smooth(sigmas[1])) ** 2))
    fine, coarse = (gaussian_kernel(s).astype(np.float32) for s in sigmas)
    assert spot_energy(values, mask, fine, coarse) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_spots_of_the_granule_size_answer_most():
    """Stripes of a period give the energy that the two transfer functions say, most near the design size."""
    mask = np.ones((120, 120), bool)
    fine, coarse = (gaussian_kernel(s).astype(np.float32) for s in (1.5, 3.0))
    energies = {}
    for period in (4, 12, 60):
        stripes = np.sin(2 * np.pi * np.arange(120) / period).astype(np.float32)
        energies[period] = spot_energy(np.tile(stripes, (120, 1)), mask, fine, coarse)
    assert energies[12] > 3 * energies[4]
    assert energies[12] > 3 * energies[60]
    w = 2 * np.pi / 12
    gain = np.exp(-((w * 1.5) ** 2) / 2) - np.exp(-((w * 3) ** 2) / 2)
    assert energies[12] == pytest.approx(gain / np.sqrt(2), rel=0.1)
