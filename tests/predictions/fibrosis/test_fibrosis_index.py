"""Tiles, the index of a slide, and the row it becomes."""

from __future__ import annotations

import csv
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from wsi_pipeline.predictions.fibrosis import TileGrid, fibrosis_index, fibrosis_prediction, patient_index, see_tile
from wsi_pipeline.predictions.fibrosis.index import COLUMNS, fibrosis_csv
from wsi_pipeline.predictions.fibrosis.tiles import POOL_PX, pixels_inside
from wsi_pipeline.units import Box

PLACES = np.stack(np.meshgrid(np.arange(10) * 128.0, np.arange(10) * 128.0), axis=-1).reshape(-1, 2)


def test_the_index_is_the_mean_over_marrow_with_its_spread():
    scores = np.linspace(0, 1, 100)
    found = fibrosis_index(scores, np.full(100, 0.016), PLACES, min_tiles=30)
    assert found.value == pytest.approx(0.5)
    assert found.sd == pytest.approx(scores.std())
    assert found.iqr == pytest.approx(0.5)
    assert found.lower < 0.5 < found.upper
    weights = np.where(scores > 0.5, 0.016, 0.0016)
    assert fibrosis_index(scores, weights, PLACES, min_tiles=30).value > 0.65


def test_an_even_slide_has_a_narrow_interval():
    even = fibrosis_index(np.full(100, 0.3), np.full(100, 0.016), PLACES, min_tiles=30)
    assert (even.value, even.lower, even.upper, even.sd) == pytest.approx((0.3, 0.3, 0.3, 0.0), abs=1e-9)


@pytest.mark.parametrize(("n", "reason"), [(0, "no-marrow"), (29, "too-little-marrow")])
def test_too_little_marrow_abstains(n, reason):
    found = fibrosis_index(np.full(n, 0.5), np.full(n, 0.016), PLACES[:n], min_tiles=30)
    assert (found.value, found.reason) == (None, reason)
    row = _row(found)
    assert (row["abstained"], row["reason"], row["index"]) == ("true", reason, "")


def test_without_a_model_it_abstains_and_gives_the_share_of_dark_pixels():
    share = fibrosis_index(np.full(100, 0.07), np.full(100, 0.016), PLACES, min_tiles=30)
    row = next(csv.DictReader(io.StringIO(fibrosis_csv(_prediction(None), None, share, simulated=False))))
    assert (row["abstained"], row["reason"], row["fibre_share"]) == ("true", "no-real-training-data", "0.07")


def test_few_squares_have_no_interval_and_so_no_answer():
    found = fibrosis_index(np.full(40, 0.5), np.full(40, 0.016), np.zeros((40, 2)), min_tiles=30)
    assert (found.value, found.lower) == (0.5, None)
    assert _prediction(found).abstained


def _prediction(index):
    return fibrosis_prediction(
        index, slide_id="s", subject_id="p", model="m", trained_on="t", simulated=False, confidence=0.95
    )


def _row(index):
    text = fibrosis_csv(_prediction(index), index, index, simulated=False)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == list(COLUMNS)
    return rows[0]


def test_tiles_lie_on_one_lattice_and_need_their_share():
    grid = TileGrid(mpp=0.5, width=2000, height=1500)
    assert grid.side == 256
    region = shapely.box(256, 0, 256 * 3, 256 + 100)
    assert grid.tiles(region, 0.3) == [(1, 0), (2, 0), (1, 1), (2, 1)]
    assert grid.tiles(region, 0.5) == [(1, 0), (2, 0)]
    assert grid.tiles(shapely.Polygon(), 0.3) == []
    apart = shapely.MultiPolygon([shapely.box(0, 0, 300, 300), shapely.box(1000, 1000, 1400, 1400)])
    assert grid.tiles(apart, 0.99) == [(0, 0), (4, 4)]


def test_pixels_inside_follow_holes_and_edges():
    region = shapely.box(0, 0, 100, 100).difference(shapely.box(20, 20, 30, 30))
    inside = pixels_inside(region, Box(x0=10, y0=10, x1=110, y1=60))
    assert inside.shape == (50, 100)
    assert inside[:, :90].sum() == 50 * 90 - 100
    assert not inside[:, 90:].any()


def test_fat_is_no_marrow_and_dark_fibres_are_counted():
    pixels = np.full((288, 288, 3), (215, 205, 190), np.uint8)
    pixels[:144] = (246, 245, 241)  # a pale half
    pixels[200:210, 16:272] = 20
    tile = see_tile(pixels, np.ones((256, 256), bool), glass=(246, 245, 241), mpp=0.5, margin=16)
    assert tile.marrow_share == pytest.approx(0.5, abs=0.02)
    assert tile.fibre_share == pytest.approx(10 / 128, abs=0.01)
    assert tile.marrow.shape == (256 // POOL_PX, 256 // POOL_PX)
    assert tile.marrow[:7].max() == 0
    assert tile.marrow[9:].min() == 1
    nothing = see_tile(pixels, np.zeros((256, 256), bool), glass=(246, 245, 241), mpp=0.5, margin=16)
    assert nothing.marrow_share == 0
    assert np.isnan(nothing.fibre_share)


def test_sections_of_a_patient_are_pooled_by_their_marrow(tmp_path):
    def table(name, scores, share):
        places = PLACES[: len(scores)]
        columns = {"score": scores, "marrow_share": share, "x_um": places[:, 0], "y_um": places[:, 1]}
        pq.write_table(pa.table({k: np.asarray(v, np.float32) for k, v in columns.items()}), tmp_path / name)
        return tmp_path / name

    many = table("many.parquet", np.full(100, 0.2), np.full(100, 1.0))
    few = table("few.parquet", np.full(20, 0.8), np.full(20, 0.5))
    found = patient_index([many, few], tile_um=128, min_tiles=30)
    assert found.value == pytest.approx((100 * 0.2 + 10 * 0.8) / 110)
    assert found.marrow_mm2 == pytest.approx(110 * 0.128**2)
    alone = patient_index([many], tile_um=128, min_tiles=30)
    # Squares of two sections at one place are two.
    assert found.n_squares == alone.n_squares + patient_index([few], tile_um=128, min_tiles=1).n_squares
    assert patient_index([few], tile_um=128, min_tiles=30).reason == "too-little-marrow"
    unscored = pa.table(
        {**{k: np.ones(3) for k in ("marrow_share", "x_um", "y_um")}, "score": pa.nulls(3, pa.float32())}
    )
    pq.write_table(unscored, tmp_path / "none.parquet")
    assert patient_index([many, tmp_path / "none.parquet"], tile_um=128, min_tiles=1) is None
