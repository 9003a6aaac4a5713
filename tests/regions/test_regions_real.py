"""Regions of real slides, judged against what a person sees on them."""

from __future__ import annotations

import pytest
from shapely.geometry import Point

from wsi_pipeline.config import RegionsConfig
from wsi_pipeline.regions import find_regions
from wsi_pipeline.slides import open_slide

pytestmark = pytest.mark.data
SEARCH = RegionsConfig(all_below_mm2=0)


def test_cmu_small_region(data_root):
    with open_slide(data_root / "slides/cmu_small_region.svs") as slide:
        assert find_regions(slide, specimen="trephine", config=RegionsConfig()).mode == "all"
        regions = find_regions(slide, specimen="trephine", config=SEARCH)
    assert 0.55 < regions.area_mm2 < 0.75  # of 1.64 mm2
    # The skin's horn is streaming and without nuclei, as crushed marrow is.
    assert regions.included.contains(Point(1050, 2100))
    assert not regions.included.contains(Point(300, 1800))


def test_tcga_tissue_without_glass_or_padding(data_root):
    with open_slide(data_root / "slides/tcga-cr-7395-01a-01-ts1.svs", mpp=0.5) as slide:
        regions = find_regions(slide, specimen="trephine", config=SEARCH)
    assert regions.included.contains(Point(2000, 1500))
    assert not regions.included.intersects(Point(150, 150).buffer(100))
    assert not regions.included.intersects(Point(600, 3300).buffer(100))
    assert 0.5 < regions.included.area / (4443 * 3567) < 0.75


def test_kidney_core_is_found_and_dust_is_not(data_root):
    with open_slide(data_root / "slides/kidney-48-5.tif", mpp=5.0) as slide:
        regions = find_regions(slide, specimen="trephine", config=SEARCH)
    assert len(regions.included.geoms) == 1
    assert regions.included.contains(Point(340, 535))
    assert regions.area_mm2 < 0.2


@pytest.mark.parametrize(("name", "low", "high"), [("bswon18", 0.3, 0.5), ("bswon23", 0.4, 0.65)])
def test_trephine_cores(data_root, name, low, high):
    with open_slide(data_root / f"trephine-thumbnails/{name}.png", mpp=5.0) as slide:
        regions = find_regions(slide, specimen="trephine", config=SEARCH)
        assert low < regions.included.area / (slide.dimensions[0] * slide.dimensions[1]) < high
