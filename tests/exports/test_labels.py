from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from make_cells import make_cells

from wsi_pipeline.errors import DataError
from wsi_pipeline.exports import labels as labels_module
from wsi_pipeline.exports import ngff_pyramid as pyramid
from wsi_pipeline.exports.labels import write_labels
from wsi_pipeline.regions.rasterise import rasterise
from wsi_pipeline.units import Box, FrameTransform

FRAME = FrameTransform(scale_x=2.0, scale_y=2.0)


def _write(cells: Path, out: Path, size: tuple[int, int] = (3000, 2000), frame: FrameTransform = FRAME) -> zarr.Group:
    write_labels(cells, out, slide_size_px0=size, frame=frame, mpp=0.5, name="fixture")
    return zarr.open_group(out, mode="r")


def _plain(shapes: list[shapely.Geometry], size: tuple[int, int], frame: FrameTransform) -> np.ndarray:
    """The reference: ask shapely for every pixel centre."""
    image = np.zeros((size[1], size[0]), dtype=np.uint32)
    for number, shape in enumerate(shapes, start=1):
        x0, y0, x1, y1 = (
            frame.box_from_px0(*shape.bounds).clip(Box(x0=0, y0=0, x1=size[0], y1=size[1])).__dict__.values()
        )
        if x1 <= x0 or y1 <= y0:
            continue
        xx, yy = np.meshgrid(np.arange(x0, x1) + 0.5, np.arange(y0, y1) + 0.5)
        centres = frame.to_px0(np.stack([xx, yy], axis=-1))
        inside = shapely.contains_xy(shape, centres[..., 0], centres[..., 1])
        image[y0:y1, x0:x1][inside] = number
    return image


def test_pixels_are_the_row_whose_outline_holds_their_centre(cells: Path, tmp_path: Path) -> None:
    group = _write(cells, tmp_path / "labels.ome.zarr")
    shapes = [
        max(shapely.get_parts(shapely.make_valid(s, method="structure", keep_collapsed=False)), key=lambda p: p.area)
        for s in shapely.from_wkb(pq.read_table(cells).column("geometry").to_pylist())
    ]
    expected = _plain(shapes, (1500, 1000), FRAME)
    found = group["0"][:]
    assert found.dtype == np.uint32
    assert found.shape == (1000, 1500)
    assert np.count_nonzero(expected) > 100_000
    assert np.array_equal(found, expected)


def test_pyramid_and_metadata_are_ngff(cells: Path, tmp_path: Path) -> None:
    group = _write(cells, tmp_path / "labels.ome.zarr")
    assert group.metadata.zarr_format == 3
    ome = group.attrs["ome"]
    assert ome["version"] == "0.5"
    assert ome["image-label"]["version"] == "0.5"
    (multiscale,) = ome["multiscales"]
    assert [a["name"] for a in multiscale["axes"]] == ["y", "x"]
    assert {a["unit"] for a in multiscale["axes"]} == {"micrometer"}
    paths = [d["path"] for d in multiscale["datasets"]]
    assert paths == ["0", "1", "2"]
    for level, dataset in enumerate(multiscale["datasets"]):
        assert dataset["coordinateTransformations"] == [{"type": "scale", "scale": [0.5 * 2**level] * 2}]
        array = group[dataset["path"]]
        assert array.metadata.dimension_names == ("y", "x")
        assert np.array_equal(array[:], group["0"][:][:: 2**level, :: 2**level])
    assert "cell_id" in group.attrs["cells"]["note"]
    assert group.attrs["cells"]["table"] == "cells.parquet"


def test_opens_with_ome_zarr(cells: Path, tmp_path: Path) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Label, Multiscales, Reader

    group = _write(cells, tmp_path / "labels.ome.zarr")
    location = parse_url(tmp_path / "labels.ome.zarr")
    assert location is not None
    (node,) = list(Reader(location)())
    assert {type(s) for s in node.specs} >= {Label, Multiscales}
    assert [level.shape for level in node.data] == [(1000, 1500), (500, 750), (250, 375)]
    assert np.array_equal(node.data[0][:200, :200].compute(), group["0"][:200, :200])


def test_squares_do_not_show(cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _write(cells, tmp_path / "a.ome.zarr")["0"][:]
    monkeypatch.setattr(pyramid, "SHARD_PX", 512)
    monkeypatch.setattr(labels_module, "_ROW_GROUPS_KEPT", 1)
    cut = _write(cells, tmp_path / "b.ome.zarr")
    assert np.array_equal(cut["0"][:], whole)
    assert np.array_equal(cut["2"][:], whole[::4, ::4])


def test_replaces_an_older_one_and_cleans_up_after_an_error(cells: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.ome.zarr"
    _write(make_cells(tmp_path / "one.parquet", 1, size_px0=(3000, 2000)), out)
    group = _write(cells, out)
    assert group["0"][:].max() == 600
    pq.write_table(pa.table({"geometry": [b"xx"]}), tmp_path / "bad.parquet")
    with pytest.raises(DataError, match="not WKB"):
        _write(tmp_path / "bad.parquet", out)
    assert zarr.open_group(out, mode="r")["0"][:].max() == 600
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_no_cells_and_tiny_slides(tmp_path: Path) -> None:
    empty = make_cells(tmp_path / "cells.parquet", 0, size_px0=(10, 10))
    group = _write(empty, tmp_path / "labels.ome.zarr", (9, 7), FrameTransform(scale_x=1, scale_y=1))
    assert group["0"].shape == (7, 9)
    assert not group["0"][:].any()


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3)))
def test_pixel_edges_give_the_mask_back(mask: np.ndarray) -> None:
    shapes, values = [], []
    for value in np.unique(mask[mask > 0]):
        squares = [shapely.box(x, y, x + 1, y + 1) for y, x in np.argwhere(mask == value)]
        for part in shapely.get_parts(shapely.unary_union(squares)):
            shapes.append(part)
            values.append(value)
    tile = np.zeros(mask.shape, dtype=np.uint32)
    rasterise(
        np.array(shapes, dtype=object),
        np.array(values, dtype=np.int64),
        tile,
        Box(x0=0, y0=0, x1=mask.shape[1], y1=mask.shape[0]),
    )
    assert np.array_equal(tile, mask)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 25), st.floats(-5, 25)), min_size=3, max_size=9))
@example([(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (9.250001179801373, 9.250001179801373)])
def test_two_halves_share_no_pixel_and_leave_no_gap(points: list[tuple[float, float]]) -> None:
    """A hull cut along a line through its own vertices: every pixel of the whole is in exactly one half."""
    hull = shapely.MultiPoint(points).convex_hull
    if hull.geom_type != "Polygon" or len(hull.exterior.coords) < 5:
        return
    ring = list(hull.exterior.coords)[:-1]
    halves = [shapely.Polygon(ring[:3]), shapely.Polygon([ring[0], *ring[2:]])]
    box = Box(x0=0, y0=0, x1=20, y1=20)
    counts = np.zeros((20, 20), dtype=np.uint32)
    for shape in halves:
        tile = np.zeros((20, 20), dtype=np.uint32)
        rasterise(np.array([shape], dtype=object), np.array([1]), tile, box)
        counts += tile
    whole = np.zeros((20, 20), dtype=np.uint32)
    rasterise(np.array([hull], dtype=object), np.array([1]), whole, box)
    assert np.array_equal(counts, whole)
