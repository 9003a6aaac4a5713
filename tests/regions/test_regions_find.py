"""Finding regions on synthetic slides: what is stained is found, what is not is explained."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
from shapely.geometry import Point, box

from wsi_pipeline.config import RegionsConfig
from wsi_pipeline.regions import find_regions
from wsi_pipeline.simulation import make_virtual_slide
from wsi_pipeline.slides import open_slide
from wsi_pipeline.units import Box

SEARCH = RegionsConfig(all_below_mm2=0)


def reasons(regions):
    return [part.reason for part in regions.excluded]


def check_partition(regions, slide):
    """Included and excluded parts are valid, do not overlap, and cover the bounds."""
    bounds = box(slide.bounds.x0, slide.bounds.y0, slide.bounds.x1, slide.bounds.y1)
    parts = [regions.included, *(part.geometry for part in regions.excluded)]
    assert all(part.is_valid for part in parts)
    union = shapely.unary_union(parts)
    assert sum(part.area for part in parts) == pytest.approx(union.area, rel=1e-6)
    assert union.area == pytest.approx(bounds.area, rel=1e-6)
    assert regions.area_mm2 == pytest.approx(regions.included.area * slide.mpp.x * slide.mpp.y * 1e-6)


def test_tissue_is_found_where_it_is(open_image, glass):
    image = glass()
    cv2.ellipse(image, (1100, 800), (600, 300), 20, 0, 360, (190, 110, 170), -1)
    cv2.circle(image, (1100, 800), 60, (238, 236, 240), -1)  # a vessel: belongs to the tissue
    truth = np.zeros(image.shape[:2], np.uint8)
    cv2.ellipse(truth, (1100, 800), (600, 300), 20, 0, 360, 1, -1)
    with open_image(image) as slide:
        regions = find_regions(slide, specimen="trephine", config=SEARCH)
        check_partition(regions, slide)
    assert (regions.mode, regions.mode_requested) == ("tissue", "auto")
    assert len(regions.included.geoms) == 1
    assert regions.included.contains(Point(1100, 800))
    found = np.zeros_like(truth)
    cv2.fillPoly(found, [np.round(np.asarray(regions.included.geoms[0].exterior.coords)).astype(np.int32)], 1)
    overlap = (found & truth).sum() / (found | truth).sum()
    assert overlap > 0.97
    assert reasons(regions) == ["background"]


def test_stained_area_of_a_smear(open_image, glass, red_cells):
    image = glass()
    inside = np.zeros(image.shape[:2], np.uint8)
    cv2.rectangle(inside, (300, 300), (1700, 1300), 1, -1)
    red_cells(image, inside)
    with open_image(image) as slide:
        regions = find_regions(slide, specimen="blood_smear", config=SEARCH)
        check_partition(regions, slide)
    assert regions.mode == "monolayer"
    truth = box(300, 300, 1700, 1300)
    overlap = regions.included.intersection(truth).area / regions.included.union(truth).area
    assert overlap > 0.93
    assert reasons(regions)[-1] == "glass"


@pytest.mark.parametrize("specimen", ["blood_smear", "marrow_smear", "trephine"])
@pytest.mark.parametrize("level", [(238, 236, 240), (210, 212, 213), (255, 255, 255)])
def test_empty_glass_is_empty_and_says_so(open_image, glass, specimen, level):
    image = glass(1200, 800, level)
    # Uneven light: 4 % from left to right.
    image = (image * np.linspace(0.98, 1.0, image.shape[1])[None, :, None]).astype(np.uint8)
    with open_image(image) as slide:
        regions = find_regions(slide, specimen=specimen, config=SEARCH)
        check_partition(regions, slide)
    assert regions.is_empty
    assert regions.area_mm2 == 0
    assert "found" in regions.note


def test_pen_and_unscanned_parts_are_excluded_with_their_reason(open_image, glass, red_cells):
    image = glass()
    inside = np.zeros(image.shape[:2], np.uint8)
    cv2.rectangle(inside, (500, 400), (1500, 1200), 1, -1)
    red_cells(image, inside)
    cv2.line(image, (1800, 200), (2000, 1400), (25, 60, 170), 60)
    cv2.line(image, (600, 150), (1200, 160), (15, 120, 70), 50)
    cv2.line(image, (700, 1400), (1200, 1450), (30, 28, 34), 50)
    image[:, :140] = 0
    cv2.circle(image, (2250, 800), 14, (120, 100, 120), -1)
    with open_image(image) as slide:
        regions = find_regions(slide, specimen="blood_smear", config=SEARCH)
        check_partition(regions, slide)
    parts = {part.reason: part.geometry for part in regions.excluded}
    for point in ((1900, 800), (900, 155), (950, 1425)):
        assert parts["pen"].contains(Point(point))
    assert parts["no-data"].contains(Point(70, 800))
    assert parts["too-small"].contains(Point(2250, 800))
    assert len(regions.included.geoms) == 1
    assert regions.included.bounds == pytest.approx((500, 400, 1500, 1200), abs=40)


def test_a_blue_stain_is_not_pen(open_image, glass):
    image = glass()
    cv2.ellipse(image, (1100, 800), (600, 300), 20, 0, 360, (90, 110, 200), -1)
    with open_image(image) as slide:
        regions = find_regions(slide, specimen="trephine", config=SEARCH)
    assert not regions.is_empty
    assert "pen" not in reasons(regions)


def test_modes_all_auto_and_small_images(open_image, glass):
    with open_image(glass(600, 400)) as slide:
        small = find_regions(slide, specimen="trephine", config=RegionsConfig())
        assert (small.mode, small.mode_requested) == ("all", "auto")
        assert "all_below_mm2" in small.note
        assert small.included.equals(box(0, 0, 600, 400))
        assert small.excluded == ()
        forced = find_regions(slide, specimen="trephine", config=RegionsConfig(mode="all", all_below_mm2=0))
        assert (forced.mode, forced.note) == ("all", "")


def test_the_overview_is_read_in_strips(open_image, glass, monkeypatch):
    image = glass(1200, 5000)
    cv2.circle(image, (600, 2100), 400, (190, 110, 170), -1)
    with open_image(image) as slide:
        heights = []
        read = slide.read

        def spy(box: Box, mpp: float) -> np.ndarray:
            if mpp == 4:
                heights.append(box.height)
            assert box.height <= 1024
            return read(box, mpp)

        monkeypatch.setattr(slide, "read", spy)
        regions = find_regions(slide, specimen="trephine", config=RegionsConfig(all_below_mm2=0, overview_mpp=4))
    assert sum(heights) == 2 * 2500  # once for the tissue, once for what is in it
    assert regions.included.centroid.distance(Point(600, 2100)) < 5


def test_same_bytes_twice(open_image, glass):
    image = glass()
    cv2.ellipse(image, (1100, 800), (600, 300), 20, 0, 360, (190, 110, 170), -1)
    with open_image(image) as slide:
        one, two = (find_regions(slide, specimen="trephine", config=SEARCH).to_features() for _ in range(2))
    assert one == two


def test_a_smear_covered_from_edge_to_edge_is_stained(tmp_path: Path) -> None:
    """Every overview pixel mixes cells and glass here; the glass is known from between the cells."""
    made = make_virtual_slide(tmp_path / "covered.tiff", profile="normal", size_px=2048, seed=1)
    with open_slide(made.path) as slide:
        regions = find_regions(slide, specimen="blood_smear", config=RegionsConfig(all_below_mm2=0.0))
    assert regions.mode == "monolayer"
    assert regions.area_mm2 > 0.95 * 0.512**2
