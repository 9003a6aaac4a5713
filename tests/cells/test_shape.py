"""Shape kernels against scikit-image, OpenCV and a plain Fourier series, and against what geometry says."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import measure
from skimage.morphology import convex_hull_image

from tests.cells.shapes import CASES, crescent, disc, ellipse, square
from wsi_pipeline.cells.shape import CROFTON_WEIGHTS, HARMONICS, fourier_descriptors, hull_defects, mask_shape
from wsi_pipeline.segmentation.outlines import trace_rings

masks = pytest.mark.parametrize("name", list(CASES))


def outline(mask):
    """The longest ring of a mask."""
    points, ends, _ = trace_rings(mask.astype(np.int32), np.array([[0, 0, *mask.shape]]))
    return max(np.split(points, ends[:-1]), key=len)


@masks
def test_mask_shape_equals_regionprops(name):
    """Area, second moments and perimeter; not checked is its solidity, whose hull is half a pixel wider."""
    mask = CASES[name]
    area, perimeter, major, minor, *_ = mask_shape(mask, CROFTON_WEIGHTS)
    expected = measure.regionprops(mask.astype(np.int32))[0]
    assert area == expected.area
    np.testing.assert_allclose(perimeter, measure.perimeter_crofton(mask, directions=4), rtol=1e-12)
    # scikit-image puts a pixel's mass into its centre; a unit square adds 1/12 to both second moments.
    spread = np.array(expected.inertia_tensor_eigvals) + 1 / 12
    np.testing.assert_allclose([major, minor], 4 * np.sqrt(spread), rtol=1e-9)


@masks
def test_the_hull_holds_the_lattice_points_of_scikit_image(name):
    mask = CASES[name]
    hull = mask_shape(mask, CROFTON_WEIGHTS)[4]
    if min(np.ptp(np.argwhere(mask), axis=0)) == 0:  # scikit-image has no hull of a line
        assert hull == mask.sum()
    else:
        assert hull == convex_hull_image(mask, offset_coordinates=False).sum()


@masks
@pytest.mark.parametrize("least", [0.3, 1.0, 3.0])
def test_hull_defects_equal_opencv(name, least):
    ring = outline(CASES[name])
    contour = (2 * ring).astype(np.int32)[:, None]
    hull = cv2.convexHull(contour, returnPoints=False)
    defects = cv2.convexityDefects(contour, np.sort(hull, axis=0)[::-1])
    depths = np.zeros(0) if defects is None else defects[:, 0, 3] / 512
    count, deepest = hull_defects(ring, least)
    # OpenCV keeps depths in 1/256 of its pixels, here half a pixel.
    assert deepest == pytest.approx(depths.max(initial=0), abs=2 / 512)
    assert (depths >= least + 2 / 512).sum() <= count <= (depths >= least - 2 / 512).sum()


def reference_fourier(ring):
    """Kuhl and Giardina's coefficients, written out."""
    steps = np.diff(ring, axis=0, append=ring[:1])
    lengths = np.hypot(*steps.T)
    t = np.concatenate([[0], np.cumsum(lengths)])
    amplitudes = []
    for n in range(1, HARMONICS + 1):
        angle = 2 * np.pi * n * t / t[-1]
        factor = t[-1] / (2 * n**2 * np.pi**2)
        pairs = [
            factor * (d / lengths * np.diff(f(angle))).sum()
            for d in (steps[:, 0], steps[:, 1])
            for f in (np.cos, np.sin)
        ]
        amplitudes.append(np.linalg.norm(pairs))
    return np.array(amplitudes[1:]) / amplitudes[0]


@masks
def test_fourier_descriptors_equal_the_series(name):
    ring = outline(CASES[name])
    np.testing.assert_allclose(fourier_descriptors(ring), reference_fourier(ring), atol=1e-12)


def test_fourier_descriptors_do_not_see_turn_size_start_or_place():
    ring = outline(crescent(13, 7))
    turn = np.array([[np.cos(1.1), -np.sin(1.1)], [np.sin(1.1), np.cos(1.1)]])
    other = np.roll(3.7 * ring @ turn.T + 50, 17, axis=0)
    np.testing.assert_allclose(fourier_descriptors(other), fourier_descriptors(ring), rtol=1e-9)


@pytest.mark.parametrize("radius", [6.0, 12.3, 25.0, 60.0])
def test_disc(radius):
    area, perimeter, major, minor, hull, hull_length = mask_shape(disc(radius), CROFTON_WEIGHTS)
    assert area == pytest.approx(np.pi * radius**2, rel=0.04)
    assert perimeter == pytest.approx(2 * np.pi * np.sqrt(area / np.pi), rel=0.025 if radius > 10 else 0.05)
    assert major == pytest.approx(2 * radius, rel=0.02)
    assert minor == pytest.approx(major)
    assert area == hull
    assert hull_length == pytest.approx(perimeter, rel=0.03)
    assert fourier_descriptors(outline(disc(radius))).max() < 0.02


@pytest.mark.parametrize("angle", [0.0, 0.3, 0.785, 1.3])
def test_ellipse(angle):
    a, b = 24.0, 10.0
    area, perimeter, major, minor, hull, _ = mask_shape(ellipse(a, b, angle), CROFTON_WEIGHTS)
    h = ((a - b) / (a + b)) ** 2
    ramanujan = np.pi * (a + b) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h)))
    assert perimeter == pytest.approx(ramanujan, rel=0.03)
    assert minor / major == pytest.approx(b / a, abs=0.01)
    assert area / hull > 0.99


def test_square():
    area, perimeter, major, minor, hull, hull_length = mask_shape(square(20), CROFTON_WEIGHTS)
    assert (area, hull) == (400, 400)
    assert perimeter == pytest.approx(80, rel=0.07)  # the known bias of four directions
    assert hull_length == pytest.approx(4 * 19 + np.pi)
    assert major == minor == pytest.approx(4 * 20 / np.sqrt(12))


@pytest.mark.parametrize("turned", [0, 1, 2, 3])
def test_crescent_has_one_defect_as_deep_as_it_is_hollow(turned):
    radius, shift = 24.0, 16.0
    mask = np.rot90(crescent(radius, shift), turned)
    # The horns lie at half the shift; the other disc's edge is radius - shift left of the centre.
    count, depth = hull_defects(outline(mask), 2.0)
    assert count == 1
    assert depth == pytest.approx(shift / 2 + radius - shift, abs=1.0)
    area, *_, hull, _ = mask_shape(mask, CROFTON_WEIGHTS)
    lens = 2 * radius**2 * np.arccos(shift / 2 / radius) - shift / 2 * np.sqrt(4 * radius**2 - shift**2)
    assert area == pytest.approx(np.pi * radius**2 - lens, rel=0.03)
    assert area / hull < 0.8
