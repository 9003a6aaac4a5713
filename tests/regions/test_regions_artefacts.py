"""Bubbles, precipitate, stripes and pen: found where drawn, and not where there are none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from shapely.geometry import Point

from tests.regions.smears import MPP, make_film, mosaic
from wsi_pipeline.config import RegionsConfig
from wsi_pipeline.regions import find_regions
from wsi_pipeline.slides import open_slide
from wsi_pipeline.units import Box

SEARCH = RegionsConfig(all_below_mm2=0)
ARTEFACTS = ("pen", "scanner-stripe", "air-bubble", "stain-precipitate", "no-data")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Pixels of a virtual film of 1.5 x 1 mm at 0.5 um per pixel."""
    with open_slide(make_film(tmp_path_factory.mktemp("film"), 61)) as slide:
        width, height = slide.dimensions
        pixels = slide.read(Box(x0=0, y0=0, x1=width, y1=height), MPP)
    pixels.flags.writeable = False
    return pixels


def found(open_image, pixels, mpp=MPP):
    with open_image(pixels, mpp=mpp) as slide:
        regions = find_regions(slide, specimen="blood_smear", config=SEARCH)
    parts = {}
    for part in regions.excluded:
        parts[part.reason] = part.geometry
    return regions, parts


def draw_bubble(pixels, x, y, radius_um, *, rim_um=12.0):
    """Draw a bubble: a dark refractile rim with a bright line inside it, and cells out of focus within."""
    image = pixels.copy()
    ys, xs = np.mgrid[: image.shape[0], : image.shape[1]]
    distance = np.hypot(xs - x, ys - y) * MPP
    blurred = cv2.GaussianBlur(image, (0, 0), 4.0 / MPP)
    image[distance < radius_um] = blurred[distance < radius_um]
    shade = 1 - 0.75 * np.exp(-(((distance - radius_um) / (rim_um / 2)) ** 2))
    bright = 1 + 0.15 * np.exp(-(((distance - radius_um + 1.5 * rim_um) / (rim_um / 3)) ** 2))
    return np.clip(image * (shade * bright)[..., None], 0, 255).astype(np.uint8)


def draw_precipitate(pixels, x, y, radius_um, per_mm2=25_000, seed=1):
    """Scatter grains of 0.5 to 2 um, dark purple, over cells and glass."""
    rng = np.random.default_rng(seed)
    grown = 4  # drawn finer than a pixel
    absorbed = np.zeros((pixels.shape[0], pixels.shape[1]), np.float32)
    number = int(per_mm2 * np.pi * (radius_um * 1e-3) ** 2)
    for _ in range(number):
        angle, distance = rng.uniform(0, 2 * np.pi), radius_um * np.sqrt(rng.random())
        cx, cy = x + distance * np.cos(angle) / MPP, y + distance * np.sin(angle) / MPP
        width = rng.uniform(0.5, 2.0) / MPP
        patch = np.zeros((12 * grown, 12 * grown), np.float32)
        offset = np.array([cx - int(cx), cy - int(cy)]) + 6
        centre = tuple(int(v) for v in np.round(offset * grown))
        cv2.circle(patch, centre, max(1, round(width / 2 * grown)), 1.0, -1, cv2.LINE_AA)
        patch = cv2.resize(patch, (12, 12), interpolation=cv2.INTER_AREA)
        x0, y0 = int(cx) - 6, int(cy) - 6
        if 0 <= x0 < pixels.shape[1] - 12 and 0 <= y0 < pixels.shape[0] - 12:
            view = absorbed[y0 : y0 + 12, x0 : x0 + 12]
            np.maximum(view, patch, out=view)
    transmitted = 10 ** (-absorbed[..., None] * np.array([0.6, 0.9, 0.4]))
    return np.clip(pixels * transmitted, 0, 255).astype(np.uint8)


def draw_stripes(pixels, width_um, factor, *, columns=False):
    """Dim every other strip of a line scanner."""
    image = pixels.transpose(1, 0, 2).copy() if columns else pixels.copy()
    strip = round(width_um / MPP)
    for start in range(strip, image.shape[0], 2 * strip):
        image[start : start + strip] = np.clip(image[start : start + strip] * factor, 0, 255)
    return np.ascontiguousarray(image.transpose(1, 0, 2)) if columns else image


def test_a_clean_film_has_no_artefacts(film, open_image):
    regions, parts = found(open_image, film)
    assert not set(parts) & set(ARTEFACTS), regions.facts


@pytest.mark.parametrize("radius_um", [60, 150])
def test_an_air_bubble(film, open_image, radius_um):
    x, y = 1700, 1000
    regions, parts = found(open_image, draw_bubble(film, x, y, radius_um))
    drawn = Point(x, y).buffer(radius_um / MPP)
    bubble = parts["air-bubble"]
    assert bubble.intersection(drawn).area > 0.95 * drawn.area
    assert bubble.area < 2.0 * drawn.area
    assert not regions.included.intersects(Point(x, y))
    assert set(parts) & set(ARTEFACTS) == {"air-bubble"}


def test_precipitate(film, open_image):
    x, y, radius_um = 1700, 1000, 160
    regions, parts = found(open_image, draw_precipitate(film, x, y, radius_um))
    drawn = Point(x, y).buffer(radius_um / MPP)
    grains = parts["stain-precipitate"]
    assert grains.intersection(drawn).area > 0.8 * drawn.area
    assert grains.difference(Point(x, y).buffer((radius_um + 140) / MPP)).area == 0
    assert set(parts) & set(ARTEFACTS) == {"stain-precipitate"}
    assert regions.area_mm2 > 0.4


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("factor", [0.8, 1.0 / 1.1])
def test_stripes_of_a_scanner(film, open_image, columns, factor):
    regions, parts = found(open_image, draw_stripes(film, 150, factor, columns=columns))
    stripes = parts["scanner-stripe"]
    strip = 150 / MPP
    length = film.shape[1] if columns else film.shape[0]
    for start in np.arange(strip, length - strip, 2 * strip):
        middle = (start + strip / 2, 1000.0) if columns else (1700.0, start + strip / 2)
        beside = (start - strip / 2, 1000.0) if columns else (1700.0, start - strip / 2)
        inside = [stripes.contains(Point(middle)), stripes.contains(Point(beside))]
        assert sum(inside) == 1  # which of two alternating levels is the wrong one cannot be known
    assert regions.facts["stripe_period_um"] == pytest.approx(150, abs=12)
    assert regions.facts["stripe_step_od"] == pytest.approx(-np.log10(factor), abs=0.015)


def test_faint_stripes_are_kept(film, open_image):
    _, parts = found(open_image, draw_stripes(film, 150, 0.98))
    assert "scanner-stripe" not in parts


def test_pen(film, open_image):
    image = film.copy()
    cv2.line(image, (1500, 300), (2100, 1700), (25, 60, 170), 200)
    _, parts = found(open_image, image)
    assert parts["pen"].contains(Point(1800, 1000))


@pytest.mark.data
def test_clean_real_fields_have_no_artefacts(data_root, open_image):
    """Fields of three sets, tiled; pale edges between fields are no stripes, rims of cells no bubbles."""
    for folder, mpp in (("bccd/fields", 0.073), ("rbc-morphology/images", 0.18), ("pbc/segmented_neutrophil", 0.198)):
        paths = sorted((data_root / folder).iterdir())[1::2][:150]
        fields = [cv2.cvtColor(cv2.imread(str(p)), cv2.COLOR_BGR2RGB) for p in paths]
        regions, parts = found(open_image, mosaic(fields, mpp, (2400, 2400)))
        area = 2400 * 2400
        shares = {reason: parts[reason].area / area for reason in ARTEFACTS if reason in parts}
        print(folder, len(fields), shares, regions.facts)
        assert sum(shares.values()) < 0.01
