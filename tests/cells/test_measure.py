"""Measures of cells: known shapes give known numbers, in microns and level-0 pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import shapely

from wsi_pipeline.cells.features import FEATURES, NAMES
from wsi_pipeline.cells.measure import cell_id, measure_block
from wsi_pipeline.cells.morphology import measure_morphology
from wsi_pipeline.cells.schema import MEASURED
from wsi_pipeline.segmentation.diffusion import labels_to_flows
from wsi_pipeline.segmentation.dynamics import Seeds
from wsi_pipeline.segmentation.instances import extract_instances
from wsi_pipeline.segmentation.segment import SegmentedBlock
from wsi_pipeline.tiling import Block
from wsi_pipeline.units import Box, FrameTransform

MPP = 0.25
SIZE = (1000, 800)
FRAME = FrameTransform(scale_x=2.0, scale_y=2.02)
GLASS = np.array([235, 240, 238], np.uint8)
WHOLE_PX0 = shapely.box(0, 0, 2000, 1616)
Labels = npt.NDArray[np.int32]


def segmented(
    labels: Labels,
    *,
    x: int = 100,
    y: int = 200,
    kinds: str = "white",
    nuclear: Any = None,
    rgb: Any = None,
    diameter_px: int = 400,
    nucleated: bool | None = None,
) -> SegmentedBlock:
    """Return what segmentation would, for cells drawn in a window at a place of the slide."""
    height, width = labels.shape
    n = int(labels.max())
    centres = [np.argwhere(labels == k)[(labels == k).sum() // 2] for k in range(1, n + 1)]
    order = np.argsort([c[0] * width + c[1] for c in centres])
    places = np.array(centres)[order]
    relabelled = np.zeros_like(labels)
    for new, old in enumerate(order, 1):
        relabelled[labels == old + 1] = new
    found = extract_instances(
        relabelled,
        Seeds(y=places[:, 0], x=places[:, 1], count=np.full(n, 9)),
        core=Box(x0=0, y0=0, x1=width, y1=height),
        flow=labels_to_flows(relabelled),
        foreground=relabelled > 0,
        layers=np.zeros((1, height, width), np.uint8),
        flow_threshold=0,
        min_area_px=1,
        max_cell_diameter_px=diameter_px,
    )
    window = Box(x0=x, y0=y, x1=x + width, y1=y + height)
    return SegmentedBlock(
        block=Block(row=3, col=4, core=window, window=window),
        instances=found,
        kind=np.full(n, kinds, object),
        kind_support=np.full(n, 0.75),
        nucleated=np.full(n, kinds in ("white", "megakaryocyte") if nucleated is None else nucleated),
        cell_probability=np.full(n, 0.5),
        mean_rgb=np.tile([10.0, 20.0, 30.0], (n, 1)),
        nuclear=np.zeros((height, width), bool) if nuclear is None else nuclear,
        rgb=np.full((height, width, 3), [10, 20, 30], np.uint8) if rgb is None else rgb,
    )


def measure(block: SegmentedBlock, region: shapely.Geometry = WHOLE_PX0) -> pd.DataFrame:
    table = measure_block(
        block,
        frame=FRAME,
        mpp=MPP,
        slide_size=SIZE,
        region_px0=region,
        fingerprint="fingerprint",
        background=GLASS,
    )
    assert table.schema.equals(MEASURED)
    return table.to_pandas()


def ellipse(ry: float, rx: float, angle: float = 0.0, shape: tuple[int, int] = (120, 140)) -> Labels:
    y, x = np.mgrid[: shape[0], : shape[1]] - np.array(shape)[:, None, None] / 2
    u, v = y * np.cos(angle) - x * np.sin(angle), y * np.sin(angle) + x * np.cos(angle)
    return ((u / ry) ** 2 + (v / rx) ** 2 <= 1).astype(np.int32)


def test_a_disc() -> None:
    (cell,) = measure(segmented(ellipse(30, 30))).to_dict("records")
    assert cell["area_um2"] == pytest.approx(np.pi * 7.5**2, rel=0.01)
    assert cell["perimeter_um"] == pytest.approx(2 * np.pi * 7.5, rel=0.1)
    assert cell["circularity"] > 0.8
    assert cell["solidity"] > 0.97
    assert cell["eccentricity"] < 0.1
    # Centre at window (70, 60) + offset (100, 200), in working pixels.
    assert cell["x_um"] == pytest.approx(170 * MPP, abs=0.6 * MPP)
    assert cell["y_um"] == pytest.approx(260 * MPP, abs=0.6 * MPP)
    assert cell["x_px0"] == pytest.approx(cell["x_um"] / MPP * 2.0)
    assert cell["y_px0"] == pytest.approx(cell["y_um"] / MPP * 2.02)
    polygon = shapely.from_wkb(cell["geometry"])
    assert polygon.area == pytest.approx(cell["area_um2"] / MPP**2 * 2.0 * 2.02, rel=0.01)
    assert polygon.contains(shapely.Point(cell["x_px0"], cell["y_px0"]))
    assert (cell["block"], cell["kind"], cell["class_name"]) == ("00003_00004", "white", "white_cell")
    assert (cell["mean_red"], cell["mean_green"], cell["mean_blue"]) == (10, 20, 30)
    assert cell["class_probability"] == 0.75
    assert not cell["truncated"]


@pytest.mark.parametrize("angle", [0.0, 0.5, np.pi / 2])
def test_an_ellipse_has_its_eccentricity_at_any_angle(angle: float) -> None:
    (cell,) = measure(segmented(ellipse(20, 40, angle))).to_dict("records")
    assert cell["eccentricity"] == pytest.approx(np.sqrt(1 - 0.25), abs=0.01)
    assert cell["solidity"] > 0.96


def test_one_pixel_has_finite_measures() -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[7, 9] = 1
    (cell,) = measure(segmented(labels)).to_dict("records")
    assert cell["area_um2"] == pytest.approx(MPP**2)
    assert cell["eccentricity"] == 0
    assert 0 < cell["circularity"] <= 1
    assert cell["solidity"] == pytest.approx(1)


def test_a_crescent_is_not_solid() -> None:
    bite = np.roll(ellipse(25, 25), 20, axis=1)
    assert measure(segmented(ellipse(30, 30) * (1 - bite))).iloc[0]["solidity"] < 0.75


def test_shape_measures_agree_with_scikit_image() -> None:
    from skimage.measure import regionprops
    from skimage.morphology import convex_hull_image

    rng = np.random.default_rng(0)
    for _ in range(5):
        labels = ellipse(*rng.uniform(8, 40, 2), rng.uniform(0, 3))
        (theirs,) = regionprops(labels)
        (cell,) = measure(segmented(labels)).to_dict("records")
        assert cell["area_um2"] == pytest.approx(theirs.area * MPP**2)
        assert cell["eccentricity"] == pytest.approx(theirs.eccentricity, abs=2e-3)
        hull = convex_hull_image(labels, offset_coordinates=False)  # of pixel centres; theirs is half a pixel wider
        assert cell["solidity"] == pytest.approx(theirs.area / hull.sum(), abs=0.005)
        assert cell["x_um"] / MPP - 100.5 == pytest.approx(theirs.centroid[1])


def test_the_nucleus_of_a_white_cell() -> None:
    nuclear = (ellipse(15, 15) > 0) & ~(ellipse(3, 3) > 0)
    nuclear[0:9, 0:9] = True  # outside the cell: another cell's
    (cell,) = measure(segmented(ellipse(30, 30), nuclear=nuclear)).to_dict("records")
    assert cell["nucleus_area_um2"] == pytest.approx(np.pi * 15**2 * MPP**2, rel=0.02), "a hole is filled"
    assert cell["nc_ratio"] == pytest.approx(0.25, abs=0.01)
    nucleus = shapely.from_wkb(cell["nucleus"])
    assert shapely.from_wkb(cell["geometry"]).contains(nucleus)


def test_lobes_may_lie_apart_and_specks_are_no_lobes() -> None:
    nuclear = np.zeros((120, 140), bool)
    nuclear[50:60, 50:60] = nuclear[50:60, 70:80] = True
    nuclear[70:72, 60:62] = True  # 0.25 um2
    (cell,) = measure(segmented(ellipse(30, 30), nuclear=nuclear)).to_dict("records")
    assert shapely.from_wkb(cell["nucleus"]).geom_type == "MultiPolygon"
    assert cell["nucleus_area_um2"] == pytest.approx(200 * MPP**2)


def test_a_nucleus_at_the_rim_stays_inside_its_cell() -> None:
    """Both outlines are simplified; without care one crosses the other."""
    rng = np.random.default_rng(4)
    for _ in range(20):
        labels = ellipse(rng.uniform(12, 30), rng.uniform(12, 30), rng.uniform(0, 3))
        nuclear = np.roll(labels, rng.integers(-9, 10, 2), axis=(0, 1)) > 0
        (cell,) = measure(segmented(labels, nuclear=nuclear)).to_dict("records")
        outside = shapely.difference(shapely.from_wkb(cell["nucleus"]), shapely.from_wkb(cell["geometry"]))
        assert outside.area < 1e-9
        assert shapely.from_wkb(cell["nucleus"]).geom_type == "Polygon"
        assert shapely.from_wkb(cell["nucleus"]).is_valid


def test_a_white_cell_without_nucleus_has_none_and_a_red_cell_is_not_asked() -> None:
    (white,) = measure(segmented(ellipse(30, 30))).to_dict("records")
    assert white["nucleus"] is None
    assert (white["nucleus_area_um2"], white["nc_ratio"]) == (0, 0)
    (red,) = measure(segmented(ellipse(30, 30), kinds="red", nuclear=ellipse(9, 9) > 0)).to_dict("records")
    assert red["nucleus"] is None
    assert np.isnan(red["nucleus_area_um2"])
    assert np.isnan(red["nc_ratio"])


def two_cells() -> Labels:
    labels = np.zeros((60, 100), np.int32)
    labels[20:40, 10:30], labels[20:40, 60:80] = 1, 2
    return labels


def test_a_cell_belongs_to_the_region_by_its_seed() -> None:
    block = segmented(two_cells())
    assert len(measure(block)) == 2
    seed_x = 2.0 * (100 + block.instances.seed_x[0] + 0.5)
    (kept,) = measure(block, shapely.box(0, 0, seed_x + 0.1, 1616)).to_dict("records")
    assert kept["seed_x"] == 100 + block.instances.seed_x[0]
    assert kept["truncated"], "it reaches over the region's edge"
    assert len(measure(block, shapely.box(0, 0, seed_x - 0.1, 1616))) == 0
    assert len(measure(block, shapely.box(1500, 0, 1600, 1616))) == 0


@pytest.mark.parametrize(
    ("x", "y", "truncated"),
    [(100, 200, False), (-10, 200, True), (100, -20, True), (SIZE[0] - 80, 200, True), (100, SIZE[1] - 40, True),
     (-9, 200, False)],
)  # fmt: skip
def test_a_cell_at_the_slides_edge_is_truncated(x: int, y: int, truncated: bool) -> None:
    region = shapely.box(-1000, -1000, 5000, 5000)
    assert measure(segmented(two_cells(), x=x, y=y), region)["truncated"].any() == truncated


def test_a_cell_at_the_edge_of_its_window_is_not_truncated() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[0:20, 0:20] = 1
    assert not measure(segmented(labels)).iloc[0]["truncated"]


def test_a_cell_too_large_is_truncated() -> None:
    assert measure(segmented(ellipse(30, 30), diameter_px=50)).iloc[0]["truncated"]


def test_ids_are_of_slide_and_seed_and_stay_as_they_are() -> None:
    table = measure(segmented(two_cells()))
    expected = [cell_id("fingerprint", x, y) for x, y in zip(table["seed_x"], table["seed_y"], strict=True)]
    assert table["cell_id"].tolist() == expected
    assert len({cell_id(f, x, y) for f in "ab" for x in (1, 12) for y in (1, 23, 3)}) == 12
    # Labels that people gave come back by id: another rule would lose them.
    assert cell_id("fingerprint", 1, 2) == "bc55175c-9e56-5f23-a1e7-894458e74b84"


def test_measures_do_not_depend_on_the_block() -> None:
    """The same cells in a window cut elsewhere give the same rows, but for the block's name."""
    labels = two_cells()
    wide = np.pad(labels, ((13, 5), (40, 7)))
    here, there = measure(segmented(labels)), measure(segmented(wide, x=60, y=187))
    pd.testing.assert_frame_equal(here, there, check_exact=True)


def half(labels: Labels) -> npt.NDArray[np.bool_]:
    """Return the left half of each cell."""
    nuclear = np.zeros(labels.shape, bool)
    for k in range(1, labels.max() + 1):
        middle = np.argwhere(labels == k)[:, 1].mean()
        nuclear |= (labels == k) & (np.arange(labels.shape[1]) < middle)
    return nuclear


def test_every_feature_is_measured_on_the_pixels_of_the_block_wherever_it_lies() -> None:
    labels = two_cells()
    rng = np.random.default_rng(0)
    rgb = rng.integers(60, 230, (*labels.shape, 3), np.uint8)
    nuclear = half(labels)
    here = measure(segmented(labels, rgb=rgb, nuclear=nuclear))
    pad = ((13, 5), (40, 7))
    there = measure(
        segmented(
            np.pad(labels, pad), x=60, y=187, rgb=np.pad(rgb, (*pad, (0, 0)), mode="wrap"), nuclear=np.pad(nuclear, pad)
        )
    )
    pd.testing.assert_frame_equal(here, there, check_exact=True)
    block = segmented(labels, rgb=rgb, nuclear=nuclear)
    plain = measure_morphology(block.instances.labels, rgb, mpp=MPP, background=GLASS)
    for name in ("cell_od_green", "cell_glcm_contrast", "shape_fourier_2", "area_um2", "perimeter_um", "eccentricity"):
        np.testing.assert_array_equal(here[name], plain[:, NAMES.index(name)], err_msg=name)
    assert here[["nucleus_lobes", "nucleus_od", "cytoplasm_granularity"]].notna().all(axis=None)


@pytest.mark.parametrize("kind", ["white", "red", "platelet", "nucleus", "megakaryocyte"])
def test_what_does_not_apply_to_a_kind_is_null(kind: str) -> None:
    labels = two_cells()
    block = segmented(labels, kinds=kind, nuclear=half(labels))
    table = measure_block(
        block, frame=FRAME, mpp=MPP, slide_size=SIZE, region_px0=WHOLE_PX0, fingerprint="f", background=GLASS
    )
    for feature in FEATURES:
        nulls = table.column(feature.name).null_count
        # White cells keep the pallor until the whole slide has told which of them are red.
        if feature.applies_to(kind) or (kind == "white" and feature.kinds == ("red",)):
            assert nulls == 0, feature.name
        else:
            assert nulls == len(table), feature.name


def test_a_megakaryocyte_known_by_its_nucleus_alone_is_measured_as_one() -> None:
    labels = two_cells()
    found = measure(segmented(labels, kinds="megakaryocyte", nuclear=half(labels), nucleated=False))
    assert (found["kind"] == "megakaryocyte").all()
    for feature in FEATURES:
        assert found[feature.name].isna().all() != feature.applies_to("nucleus"), feature.name
    assert found["nucleus"].isna().all()


def test_no_cells() -> None:
    table = measure_block(
        segmented(two_cells()),
        frame=FRAME, mpp=MPP, slide_size=SIZE, region_px0=shapely.Polygon(), fingerprint="f",
        background=GLASS,
    )  # fmt: skip
    assert table.num_rows == 0
    assert table.schema.equals(MEASURED)
