"""Fat and bone of a trephine as annotations: shown to people, never read back as areas to search."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import shapely
from drawn_trephines import MPP, draw_trephine

from wsi_pipeline.config import RegionsConfig
from wsi_pipeline.exports.region_map import read_region_features
from wsi_pipeline.regions import find_regions, read_regions, regions_from_record, regions_record, without, write_regions


@pytest.mark.parametrize(
    ("config", "expected"), [({"all_below_mm2": 0.0}, {"fat"}), ({"mode": "all"}, {"bone", "fat"})]
)
def test_fat_and_bone_are_locked_annotations(open_image, tmp_path: Path, config, expected):
    drawn = draw_trephine(width=1400, height=700)
    with open_image(drawn.image, mpp=MPP) as slide:
        regions = find_regions(slide, specimen="trephine", config=RegionsConfig(**config))
        assert {part.reason for part in regions.inside} == expected
        fat = next(part.geometry for part in regions.inside if part.reason == "fat")
        assert fat.area == pytest.approx(drawn.truth["fat"].sum(), rel=0.25)
        assert fat.difference(regions.included).area < 1e-6 * fat.area
        path = tmp_path / "regions.geojson"
        write_regions(regions, path, slide)
        again = regions_from_record(json.loads(json.dumps(regions_record(regions))))
        assert again == regions
        gone = shapely.box(0, 0, 700, 700)
        less = without(regions, gone, "corrupt-tile", slide)
    assert all(part.geometry.intersection(gone).area < 1e-6 for part in less.inside)
    features = json.loads(path.read_text())["features"]
    inside = [f["properties"] for f in features if f["properties"]["metadata"]["status"] == "inside"]
    assert {p["name"] for p in inside} == expected
    assert all(p["isLocked"] and p["classification"]["name"].endswith("*") for p in inside)
    # Read back it is the area that was searched, with its fat.
    areas = read_regions(path)
    searched = shapely.unary_union([area.geometry for area in areas if not area.ignored])
    assert searched.area == pytest.approx(regions.included.area, rel=1e-3)
    assert not any(area.geometry.equals(fat) for area in areas)
    assert {region.name for region in read_region_features(path, (0, 0), inside=True)} == expected
    assert "fat" not in {region.name for region in read_region_features(path, (0, 0))}
