"""AnnData, SpatialData and GeoParquet of a run, opened with the packages they are for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make_run import make_run

from wsi_pipeline.cells.features import FEATURES
from wsi_pipeline.cells.schema import table_schema
from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.exports.anndata_table import cells_anndata, need, write_anndata
from wsi_pipeline.exports.finished_run import FinishedRun, read_finished_run
from wsi_pipeline.exports.spatialdata_store import write_spatialdata


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return read_finished_run(make_run(tmp_path_factory.mktemp("anndata") / "run", n_cells=80, embedding=True))


def test_the_file_holds_cells_by_measures(run: FinishedRun, tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    assert write_anndata(run, tmp_path / "cells.h5ad") == (160, 10)
    data = anndata.read_h5ad(tmp_path / "cells.h5ad")
    tables = [pq.read_table(slide.cells) for slide in run.slides]
    table = pa.concat_tables(tables)
    assert data.shape == (160, 10)
    assert set(data.var_names) <= {"mean_red", "mean_green", "mean_blue", *(feature.name for feature in FEATURES)}
    assert data.var.loc["area_um2", "unit"] == "um2"
    for name in data.var_names:
        expected = table.column(name).cast(pa.float32()).to_numpy()
        assert np.array_equal(data[:, name].X.ravel(), expected, equal_nan=True)
    assert list(data.obs["slide_id"]) == ["a"] * 80 + ["b"] * 80
    assert list(data.obs["cell_id"]) == table.column("cell_id").to_pylist()
    assert data.obs_names[80] == f"b:{data.obs['cell_id'].iloc[80]}"
    assert data.obs_names.is_unique
    assert list(data.obs["class_name"]) == table.column("class_name").to_pylist()
    assert list(data.obs["subject_id"].cat.categories) == ["P0", "P1"]
    assert np.array_equal(
        data.obsm["spatial"], np.stack([table.column(c).to_numpy() for c in ("x_um", "y_um")], axis=1)
    )
    assert np.array_equal(data.obsm["spatial_px0"][:, 0], table.column("x_px0").to_numpy())
    assert data.obsm["class_probabilities"]["blast"].iloc[5] == pytest.approx(
        table.column("p_blast")[5].as_py() or np.nan, nan_ok=True
    )
    assert data.obsm["X_embedding"].shape == (160, 16)
    assert np.array_equal(data.obsm["X_embedding"][3], np.float32(table.column("embedding")[3].as_py()))
    assert data.uns["versions"] == {"wsi-pipeline": "0.1.0"}
    assert json.loads(data.uns["slides"])["b"]["fingerprint"] == run.slides[1].fingerprint


def test_colours_are_those_of_the_taxonomy_in_the_order_of_the_categories(run: FinishedRun) -> None:
    pytest.importorskip("anndata")
    data = cells_anndata(run.slides)
    colours = dict(zip(data.obs["class_name"].cat.categories, data.uns["class_name_colors"], strict=True))
    for cell in run.slides[0].taxonomies()[0].classes:
        if cell.code in colours:
            assert colours[cell.code] == "#{:02x}{:02x}{:02x}".format(*cell.color)
    assert len(colours) > 5


def test_kinds_are_chosen_and_must_occur(run: FinishedRun) -> None:
    pytest.importorskip("anndata")
    data = cells_anndata(run.slides, kinds=["white"])
    assert set(data.obs["kind"]) == {"white"}
    assert 0 < data.n_obs < 160
    with pytest.raises(DataError, match="no cell of kind megakaryocyte"):
        cells_anndata(run.slides, kinds=["megakaryocyte"])


def test_slides_of_two_classifiers_are_joined_by_the_names_of_their_columns(tmp_path: Path) -> None:
    pytest.importorskip("anndata")
    run = read_finished_run(make_run(tmp_path / "run", n_cells=20, embedding=True))
    path = run.slides[1].cells
    table = pq.read_table(path)
    kept = [name for name in table.column_names if name not in ("embedding", "p_blast", "circularity")]
    pq.write_table(table.select(kept), path)
    data = cells_anndata(run.slides)
    assert np.isnan(data[20:, "circularity"].X).all()
    assert data.obsm["class_probabilities"]["blast"].iloc[20:].isna().all()
    assert data.obsm["class_probabilities"]["monocyte"].iloc[20:].notna().any()
    assert np.isnan(data.obsm["X_embedding"][20:]).all()
    assert np.isfinite(data.obsm["X_embedding"][:20]).all()


def test_a_package_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, run: FinishedRun, tmp_path: Path
) -> None:
    monkeypatch.setattr("wsi_pipeline.exports.anndata_table.find_spec", lambda _: None)
    with pytest.raises(
        ConfigError, match=r"export anndata needs the package anndata: pip install 'wsi-pipeline\[anndata\]'"
    ):
        write_anndata(run, tmp_path / "cells.h5ad")
    with pytest.raises(ConfigError, match=r"wsi-pipeline\[spatialdata\]"):
        need("spatialdata", "export spatialdata")


@pytest.mark.filterwarnings("ignore")
def test_spatialdata_opens_outlines_and_table(run: FinishedRun, tmp_path: Path) -> None:
    spatialdata = pytest.importorskip("spatialdata")
    slide = run.slides[0]
    assert write_spatialdata(slide, tmp_path / "spatialdata.zarr") == 80
    data = spatialdata.read_zarr(tmp_path / "spatialdata.zarr")
    assert list(data["cells"].index) == list(data["table"].obs["cell_id"])
    assert data["table"].n_obs == 80
    in_um = spatialdata.transform(data["cells"], to_coordinate_system="global")
    assert np.allclose(in_um.geometry.area, data["cells"].geometry.area * 0.25**2)
    box = {"min_coordinate": [0, 0], "max_coordinate": [150, 150]}
    part = spatialdata.bounding_box_query(data, axes=("x", "y"), target_coordinate_system="global", **box)
    assert 0 < len(part["cells"]) < 80
    assert len(part["table"]) == len(part["cells"])


def test_geopandas_opens_cells_as_geoparquet(run: FinishedRun, tmp_path: Path) -> None:
    """The schema is that of a run; the rows are the fixture's."""
    import geopandas as gpd

    made = pq.read_table(run.slides[0].cells)
    schema = table_schema(("blast",), 16)
    columns = [
        made.column(field.name).combine_chunks().cast(field.type)
        if field.name in made.column_names and not pa.types.is_fixed_size_list(field.type)
        else pa.nulls(len(made), field.type)
        for field in schema
    ]
    pq.write_table(pa.table(columns, schema=schema), tmp_path / "cells.parquet")
    geo = json.loads(pq.read_schema(tmp_path / "cells.parquet").metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert geo["columns"]["geometry"]["crs"] is None
    frame = gpd.read_parquet(tmp_path / "cells.parquet")
    assert isinstance(frame, gpd.GeoDataFrame)
    assert frame.crs is None
    assert frame.active_geometry_name == "geometry"
    assert set(frame.geom_type) == {"Polygon"}
    assert isinstance(frame["nucleus"], gpd.GeoSeries)
    x0, y0, x1, y1 = frame.total_bounds
    assert -60 < x0 < x1 < 1400
    assert -60 < y0 < y1 < 1200
    assert "pyarrow" in sys.modules
