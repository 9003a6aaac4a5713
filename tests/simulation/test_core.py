"""Trephine cores: what is planted is what was asked for, lies in marrow, and is drawn so that regions are told."""

from __future__ import annotations

import csv
import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.spatial import cKDTree

from wsi_pipeline.config import RegionsConfig
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.regions import find_regions
from wsi_pipeline.simulation import load_profile, make_virtual_slide
from wsi_pipeline.simulation.bone import RASTER_UM
from wsi_pipeline.simulation.core_places import LEAST_CLUSTER, PARATRABECULAR_UM, cluster_numbers
from wsi_pipeline.simulation.core_plan import CorePlan, on_grid, plan_core
from wsi_pipeline.simulation.core_profile import Arrangement, Between, CoreProfile
from wsi_pipeline.simulation.profile import Profile
from wsi_pipeline.slides import open_slide

WIDTH, HEIGHT = 1200.0, 1600.0
SEARCH = RegionsConfig(all_below_mm2=0, cellularity_min_mm2=0.05, min_area_mm2=0.01)


@cache
def core() -> CoreProfile:
    found = load_profile("trephine").core
    assert found is not None
    return found


@cache
def planned(**changes: float) -> CorePlan:
    assert core().megakaryocytes is not None
    own = {name: changes.pop(name) for name in list(changes) if name in Arrangement.model_fields}
    megakaryocytes = core().megakaryocytes.model_copy(update=own)  # type: ignore[union-attr]
    return plan_core(core().model_copy(update={**changes, "megakaryocytes": megakaryocytes}), WIDTH, HEIGHT, 3)


def places(plan: CorePlan) -> np.ndarray:
    return np.array([(one.x_um, one.y_um) for one in plan.megakaryocytes]).reshape(-1, 2)


def nearest_gap(plan: CorePlan) -> np.ndarray:
    """Return how far the claimed discs of every pair lie apart, um."""
    xy, radius = places(plan), np.array([one.radius_um for one in plan.megakaryocytes])
    apart = np.hypot(*(xy[:, None] - xy[None]).transpose(2, 0, 1)) - radius[:, None] - radius[None]
    return np.asarray(apart + np.where(np.eye(len(xy)), math.inf, 0.0))


@given(
    least=st.floats(-5, 5), width=st.floats(0.1, 50), at=st.floats(0.02, 0.98), sd=st.floats(0.01, 0.95),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_numbers_stay_between(least: float, width: float, at: float, sd: float, seed: int) -> None:
    most, mean = least + width, least + at * width
    spread = Between(mean=mean, sd=sd * width * math.sqrt(at * (1 - at)), least=least, most=most)
    drawn = spread.draw(np.random.default_rng(seed), 50)
    assert (drawn >= least - 1e-9).all()
    assert (drawn <= most + 1e-9).all()


def test_numbers_have_the_mean_and_deviation_asked_for() -> None:
    drawn = Between(mean=30, sd=4, least=15, most=50).draw(np.random.default_rng(0), 20_000)
    assert drawn.mean() == pytest.approx(30, abs=0.15)
    assert drawn.std() == pytest.approx(4, rel=0.05)
    assert (Between(mean=2, sd=0, least=2, most=2).draw(np.random.default_rng(0), 3) == 2).all()
    with pytest.raises(ValidationError, match="too wide"):
        Between(mean=1, sd=1, least=0, most=2)


@given(st.integers(0, 300), st.floats(0, 1), st.floats(3, 12), st.integers(0, 2**31))
@settings(max_examples=60)
def test_clusters_have_three_cells_or_more(n: int, share: float, size: float, seed: int) -> None:
    asked = Arrangement(per_mm2=1, shares={"a": 1}, clustered=share, cluster_size=size)
    numbers = cluster_numbers(np.random.default_rng(seed), n, asked)
    assert len(numbers) == n
    sizes = np.bincount(numbers[numbers >= 0])
    assert (sizes >= LEAST_CLUSTER).all()
    assert 0 <= round(share * n) - sizes.sum() < LEAST_CLUSTER
    assert (np.diff(np.flatnonzero(numbers < 0)) == 1).all(), "single cells come last"


@pytest.mark.parametrize("cellularity", [0.55, 0.75, 0.95])
def test_bone_and_fat_take_what_they_were_given(cellularity: float) -> None:
    plan = planned(cellularity=cellularity)
    assert plan.cellularity == pytest.approx(cellularity, abs=0.01)
    areas = plan.areas_mm2
    assert areas["tissue"] == pytest.approx((WIDTH - 240) * (HEIGHT - 240) * 1e-6, rel=0.05)
    assert areas["bone"] + areas["marrow"] == pytest.approx(areas["tissue"])
    # The last trabecula is not cut short.
    assert 0.17 <= areas["bone"] / areas["tissue"] <= 0.30


def test_cells_lie_in_marrow_and_not_on_each_other() -> None:
    plan = planned(per_mm2=45.0, clustered=0.5)
    assert len(plan.megakaryocytes) > 30
    assert nearest_gap(plan).min() >= 0
    discs = [(one.x_um, one.y_um, one.radius_um) for one in plan.megakaryocytes] + plan.fat[:, :3].tolist()
    for x, y, radius in discs:
        row, column = int(y / RASTER_UM), int(x / RASTER_UM)
        assert plan.bone[row, column] < -radius
        assert plan.depth[row, column] > radius
    fat = plan.fat[:, :3]
    tree = cKDTree(fat[:, :2])
    for x, y, radius in discs[: len(plan.megakaryocytes)]:
        apart, at = tree.query((x, y), k=5)
        assert (apart >= radius + fat[at, 2]).all()


def test_dense_clusters_touch_and_loose_ones_leave_room() -> None:
    gaps = {}
    for name, gap in (("dense", (0.0, 3.0)), ("loose", (8.0, 20.0))):
        plan = planned(per_mm2=40.0, clustered=0.6, cluster_size=5.0, cluster_gap_um=gap)
        inside = np.array([one.cluster >= 0 for one in plan.megakaryocytes])
        assert 0.4 < inside.mean() < 0.7
        gaps[name] = nearest_gap(plan).min(axis=1)[inside]
    assert np.median(gaps["dense"]) < 4.5
    assert np.median(gaps["loose"]) > 6


def test_cells_gather_beside_bone_when_asked() -> None:
    beside = []
    for weight in (0.0, 1.0, 8.0):
        plan = planned(per_mm2=60.0, clustered=0.0, paratrabecular=weight)
        xy = places(plan)
        depth = np.array([on_grid(plan.bone, np.array([x]), np.array([y]))[0, 0] for x, y in xy])
        beside.append(float((depth > -PARATRABECULAR_UM).mean()))
    assert beside[0] < 0.05
    assert beside[0] < beside[1] < beside[2]


def test_a_plan_depends_on_its_seed_alone() -> None:
    same, again = planned(), plan_core(core(), WIDTH, HEIGHT, 3)
    assert same.megakaryocytes == again.megakaryocytes
    np.testing.assert_array_equal(same.fat, again.fat)
    other = plan_core(core(), WIDTH, HEIGHT, 4)
    assert other.megakaryocytes != same.megakaryocytes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cellularity": 0.2}, "cellularity"),
        ({"bone": {"share": 0.9}}, "share"),
        ({"bone": {"thickness_um": [200, 100]}}, "thickness_um"),
        ({"megakaryocytes": {"per_mm2": 5, "shares": {"odd": 1}}}, "odd"),
        ({"megakaryocytes": {"per_mm2": 5, "shares": {"ordinary": 0}}}, "sum to 0"),
        ({"kinds": {"ordinary": {"lobes": {"mean": 30, "sd": 1, "least": 20, "most": 40}}}}, "lobes"),
        ({"fat_radius_um": [5, 20]}, "fat_radius_um"),
        ({"typo": 1}, "typo"),
    ],
)
def test_cores_that_cannot_be_drawn_are_refused(change: dict[str, object], message: str) -> None:
    tree = load_profile("trephine").model_dump()
    tree["core"] = {**tree["core"], **{k: v for k, v in change.items() if k != "kinds"}}
    if "kinds" in change:
        tree["core"]["kinds"]["ordinary"].update(change["kinds"]["ordinary"])  # type: ignore[index]
    with pytest.raises(ValidationError, match=message):
        Profile.model_validate(tree)


def test_a_core_places_its_own_fat_and_megakaryocytes() -> None:
    tree = load_profile("trephine").model_dump()
    tree["layers"]["fat"] = {"per_mm2": 10, "radius_um": [14, 20]}
    with pytest.raises(ValidationError, match="the layer nucleus alone"):
        Profile.model_validate(tree)


# Slides -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("core") / "core.tiff"
    make_virtual_slide(out, profile="trephine", size_px=(1500, 1700), seed=5, mpp=0.5)
    return out


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_truth_names_megakaryocytes_with_their_nuclei(slide: Path) -> None:
    rows = _rows(slide.with_name("core.truth.csv"))
    large = [row for row in rows if row["kind"] == "megakaryocyte"]
    truth = json.loads(slide.with_name("core.truth.json").read_text())
    assert len(large) == truth["megakaryocytes"] > 0
    for row in large:
        cell, nucleus = shapely.from_wkt(row["outline"]), shapely.from_wkt(row["nucleus"])
        assert nucleus.area < cell.area
        assert nucleus.intersection(cell).area > 0.97 * nucleus.area
        assert row["variant"] == "ordinary"
    assert {row["nucleus"] for row in rows if row["kind"] == "nucleus"} == {""}
    marrow, bone = shapely.from_wkt(truth["marrow"]), shapely.from_wkt(truth["bone"])
    assert marrow.area * 0.25e-6 == pytest.approx(truth["areas_mm2"]["marrow"], rel=0.01)
    assert bone.area * 0.25e-6 == pytest.approx(truth["areas_mm2"]["bone"], rel=0.02)
    assert marrow.intersection(bone).area < 0.002 * bone.area
    inside = [marrow.buffer(2).contains(shapely.Point(float(r["x_px0"]), float(r["y_px0"]))) for r in rows]
    assert np.mean(inside) > 0.995


def test_regions_of_a_core_are_told_as_they_were_planted(slide: Path) -> None:
    truth = json.loads(slide.with_name("core.truth.json").read_text())
    with open_slide(slide) as opened:
        found = find_regions(opened, specimen="trephine", config=SEARCH)
    bone = shapely.union_all([part.geometry for part in found.excluded if part.reason == "bone"])
    planted = shapely.from_wkt(truth["bone"])
    assert bone.intersection(planted).area > 0.85 * bone.union(planted).area
    assert found.facts["cellularity"]["percent"] == pytest.approx(100 * truth["cellularity"], abs=5)
    assert found.included.intersection(planted).area < 0.1 * planted.area


def test_pixels_do_not_depend_on_who_draws_them(tmp_path: Path) -> None:
    made = [
        make_virtual_slide(
            tmp_path / f"{n}.tiff", profile="trephine", size_px=(900, 600), seed=2, mpp=0.5, tile_px=256, workers=n
        )
        for n in (1, 2)
    ]
    assert made[0].path.read_bytes() == made[1].path.read_bytes()
    assert made[0].truth.read_bytes() == made[1].truth.read_bytes()


@pytest.mark.parametrize("profile", ["trephine-no-marrow", "trephine-tangential"])
def test_cores_with_little_or_no_marrow(tmp_path: Path, profile: str) -> None:
    out = tmp_path / "core.tiff"
    make_virtual_slide(out, profile=profile, size_px=(2400, 2480), seed=1, mpp=0.5)
    truth = json.loads(out.with_name("core.truth.json").read_text())
    with open_slide(out) as opened:
        found = find_regions(opened, specimen="trephine", config=RegionsConfig(all_below_mm2=0))
    if profile == "trephine-no-marrow":
        assert truth["areas_mm2"]["marrow"] == 0
        assert truth["cellularity"] is None
        assert found.is_empty
        assert found.empty_reason == "bone"
        return
    assert truth["areas_mm2"]["bone"] > truth["areas_mm2"]["marrow"] > 0.05
    assert found.facts["classes_mm2"]["bone"] == pytest.approx(truth["areas_mm2"]["bone"], rel=0.1)
    assert found.facts["classes_mm2"]["subcortical-rim"] > 0.5 * truth["areas_mm2"]["marrow"]
    assert found.facts["cellularity"]["percent"] is None
    assert found.facts["cellularity"]["reason"] == "too-little-marrow"


def test_a_core_has_no_film(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no film"):
        make_virtual_slide(tmp_path / "a.tiff", profile="trephine", size_px=600, seed=0, film=True)
