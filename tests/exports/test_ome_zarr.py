"""OME-Zarr of a finished run: the image pyramid, its labels, and the readers of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from make_run import SIZE_PX0, make_run

from wsi_pipeline.exports import labels as labels_module
from wsi_pipeline.exports import ngff_pyramid as pyramid
from wsi_pipeline.exports.finished_run import RunSlide, read_finished_run
from wsi_pipeline.exports.labels import label_type, write_labels
from wsi_pipeline.exports.ome_zarr import halved, write_image
from wsi_pipeline.slides import open_slide
from wsi_pipeline.units import Box


@pytest.fixture(scope="module")
def run_slide(tmp_path_factory: pytest.TempPathFactory) -> RunSlide:
    return read_finished_run(make_run(tmp_path_factory.mktemp("ome") / "run", ("a",))).slides[0]


def _image(slide: RunSlide, out: Path, mpp: float = 0.5) -> Path:
    with open_slide(slide.path) as opened:
        write_image(opened, slide.cells, out, mpp=mpp, name="a slide")
    return out


def _labels(slide: RunSlide, out: Path, cells: Path | None = None) -> zarr.Group:
    write_labels(
        cells or slide.cells, out, slide_size_px0=slide.size_px0, frame=slide.frame, mpp=slide.working_mpp, name="a"
    )
    return zarr.open_group(out, mode="r")


def test_the_first_level_is_what_the_slide_reads_and_each_further_one_its_mean(
    run_slide: RunSlide, tmp_path: Path
) -> None:
    group = zarr.open_group(_image(run_slide, tmp_path / "image.ome.zarr", 0.25), mode="r")
    with open_slide(run_slide.path) as opened:
        pixels = opened.read(Box(x0=0, y0=0, x1=SIZE_PX0[0], y1=SIZE_PX0[1]), 0.25)
    first = np.moveaxis(group["0"][:], 0, 2)
    assert first.dtype == np.uint8
    assert np.array_equal(first, pixels)
    second = np.moveaxis(group["1"][:], 0, 2)
    plain = pixels.astype(float).reshape(SIZE_PX0[1] // 2, 2, SIZE_PX0[0] // 2, 2, 3).mean(axis=(1, 3))
    assert second.shape == plain.shape
    assert np.abs(second - plain).max() <= 0.5
    assert group["2"].shape == (3, 275, 325)


def test_squares_do_not_show(run_slide: RunSlide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = zarr.open_group(_image(run_slide, tmp_path / "a.ome.zarr", 0.25), mode="r")
    monkeypatch.setattr(pyramid, "SHARD_PX", 512)
    cut = zarr.open_group(_image(run_slide, tmp_path / "b.ome.zarr", 0.25), mode="r")
    for level in ("0", "1", "2", "labels/cells/0", "labels/cells/2"):
        assert np.array_equal(cut[level][:], whole[level][:])


def test_levels_lie_where_their_transformations_say(run_slide: RunSlide, tmp_path: Path) -> None:
    ome = zarr.open_group(_image(run_slide, tmp_path / "image.ome.zarr", 0.25), mode="r").attrs["ome"]
    (multiscale,) = ome["multiscales"]
    assert [axis["name"] for axis in multiscale["axes"]] == ["c", "y", "x"]
    for level, dataset in enumerate(multiscale["datasets"]):
        scale, *shift = dataset["coordinateTransformations"]
        assert scale["scale"] == [1.0, 0.25 * 2**level, 0.25 * 2**level]
        # The centre of its first pixel is the middle of the 2**level pixels of level 0 that it stands for.
        middle = 0.25 * (2**level - 1) / 2
        assert (shift[0]["translation"] if shift else [0.0, 0.0, 0.0]) == [0.0, middle, middle]


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_halving_means_two_by_two_and_repeats_an_odd_edge(pixels: np.ndarray) -> None:
    small = halved(pixels)
    h, w = pixels.shape[:2]
    assert small.shape == (-(-h // 2), -(-w // 2), 3)
    for y in range(small.shape[0]):
        for x in range(small.shape[1]):
            block = pixels[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].reshape(-1, 3).astype(float)
            assert np.abs(small[y, x] - block.mean(axis=0)).max() <= 0.5


def test_labels_are_in_the_image_on_its_grid(run_slide: RunSlide, tmp_path: Path) -> None:
    group = zarr.open_group(_image(run_slide, tmp_path / "image.ome.zarr"), mode="r")
    assert group["labels"].attrs["ome"] == {"version": "0.5", "labels": ["cells"]}
    inside = group["labels/cells"]
    assert inside.attrs["ome"]["image-label"]["source"] == {"image": "../../"}
    assert inside["0"].shape == group["0"].shape[1:]
    alone = _labels(run_slide, tmp_path / "labels.ome.zarr")
    assert "source" not in alone.attrs["ome"]["image-label"]
    assert np.array_equal(inside["0"][:], alone["0"][:])
    assert inside["0"][:].any()


def test_labels_are_those_of_the_table_however_the_run_was_cut(run_slide: RunSlide, tmp_path: Path) -> None:
    """Blocks of another size change the column ``block`` and the row groups of the table alone."""
    table = pq.read_table(run_slide.cells)
    blocks = table.column("block").to_pylist()
    other = table.set_column(table.column_names.index("block"), "block", [[f"9_{name}" for name in blocks]])
    pq.write_table(other, tmp_path / "cells.parquet", row_group_size=7)
    one = _labels(run_slide, tmp_path / "one.ome.zarr")
    two = _labels(run_slide, tmp_path / "two.ome.zarr", tmp_path / "cells.parquet")
    files = [sorted(p.relative_to(g) for p in g.rglob("*") if p.is_file()) for g in tmp_path.glob("*.ome.zarr")]
    assert files[0] == files[1]
    for name in files[0]:
        assert (tmp_path / "one.ome.zarr" / name).read_bytes() == (tmp_path / "two.ome.zarr" / name).read_bytes()
    assert one["0"][:].any()
    assert two["0"].dtype == np.uint32


def test_labels_are_narrowed_only_when_they_fit(
    run_slide: RunSlide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert label_type(0) == label_type(2**32 - 1) == "uint32"
    assert label_type(2**32) == "uint64"
    narrow = _labels(run_slide, tmp_path / "narrow.ome.zarr")
    monkeypatch.setattr(labels_module, "_NARROW_MAX", 149)
    wide = _labels(run_slide, tmp_path / "wide.ome.zarr")
    assert (narrow["0"].dtype, wide["0"].dtype, wide["1"].dtype) == (np.uint32, np.uint64, np.uint64)
    assert np.array_equal(narrow["0"][:], wide["0"][:])


def test_the_package_reads_its_own_image(run_slide: RunSlide, tmp_path: Path) -> None:
    out = _image(run_slide, tmp_path / "image.ome.zarr", 0.25)
    with open_slide(out) as opened, open_slide(run_slide.path) as slide:
        box = Box(x0=100, y0=80, x1=400, y1=300)
        assert opened.mpp.x == 0.25
        assert opened.dimensions == slide.dimensions
        assert np.array_equal(opened.read(box, 0.25), slide.read(box, 0.25))


def test_ome_zarr_finds_image_and_labels(run_slide: RunSlide, tmp_path: Path) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import OMERO, Label, Labels, Multiscales, Reader

    out = _image(run_slide, tmp_path / "image.ome.zarr")
    location = parse_url(out)
    assert location is not None
    nodes: list[Any] = list(Reader(location)())
    kinds = [{type(spec) for spec in node.specs} for node in nodes]
    assert {Multiscales, OMERO} <= kinds[0]
    assert any(Labels in kind for kind in kinds)
    (label,) = (node for node, kind in zip(nodes, kinds, strict=True) if Label in kind)
    assert [level.shape for level in nodes[0].data] == [(3, 550, 650), (3, 275, 325)]
    assert [level.shape for level in label.data] == [(550, 650), (275, 325)]
    assert label.data[0].compute().any()


def test_napari_opens_image_and_labels(run_slide: RunSlide, tmp_path: Path) -> None:
    reader = pytest.importorskip("napari_ome_zarr", reason="the reader of napari is not installed").napari_get_reader
    out = _image(run_slide, tmp_path / "image.ome.zarr")
    (pixels, how, kind), (label, label_how, label_kind) = reader(str(out))(str(out))
    assert (kind, label_kind) == ("image", "labels")
    assert how["name"] == ["a slide: red", "a slide: green", "a slide: blue"]
    assert how["scale"] == label_how["scale"] == [0.5, 0.5]
    assert [level.shape for level in pixels] == [(3, 550, 650), (3, 275, 325)]
    assert [level.shape for level in label] == [(550, 650), (275, 325)]
    _labels(run_slide, tmp_path / "labels.ome.zarr")
    ((alone, _, alone_kind),) = reader(str(tmp_path / "labels.ome.zarr"))(str(tmp_path / "labels.ome.zarr"))
    assert alone_kind == "labels"
    assert np.asarray(alone[0]).max() == 150
