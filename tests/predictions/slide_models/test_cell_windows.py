"""Windows of cells read again: from images and from slides, and refused where they are not what was run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encoder_bags import MPP, draw, make_bag
from PIL import Image

from wsi_pipeline.cells.windows import estimate_background, resample
from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.bags import CellBag
from wsi_pipeline.predictions.slide_models.cell_windows import read_windows


def test_images_are_read_as_the_gallery_reads_them(tmp_path: Path) -> None:
    bag = make_bag(tmp_path, "P1", 3, 1.0, seed=1)
    found = read_windows(bag, [2, 0], mpp=0.5, side=40)
    for at, row in enumerate((2, 0)):
        pixels = np.asarray(Image.open(bag.images[row]))  # type: ignore[index]
        np.testing.assert_array_equal(found.images[at], resample(pixels, 48, 48, side=40, scale=0.5 / MPP))
        np.testing.assert_array_equal(found.background[at], estimate_background(pixels))


def test_no_rows_give_no_windows(tmp_path: Path) -> None:
    assert read_windows(make_bag(tmp_path, "P1", 1, 1.0, seed=1), [], mpp=MPP, side=40).images.shape == (0, 40, 40, 3)


def test_a_moved_image_is_named(tmp_path: Path) -> None:
    bag = make_bag(tmp_path, "P1", 2, 1.0, seed=1)
    Path(bag.images[1]).unlink()  # type: ignore[index]
    with pytest.raises(DataError, match=r"an image of P1, cannot be read any more.*--encoder frozen"):
        read_windows(bag, [0, 1], mpp=MPP, side=40)


def test_another_image_under_the_same_name_is_refused(tmp_path: Path) -> None:
    bag = make_bag(tmp_path, "P1", 2, 1.0, seed=1)
    Image.fromarray(draw(99, 0.0)).save(bag.images[0])  # type: ignore[index]
    with pytest.raises(DataError, match="not the one that was run"):
        read_windows(bag, [0], mpp=MPP, side=40)


def _on_slide(tmp_path: Path, bag: CellBag) -> CellBag:
    """Return the bag as one of a slide whose two cells lie side by side."""
    field = np.concatenate([draw(1, 1.0), draw(2, 0.0)], axis=1)
    path = tmp_path / "field.png"
    Image.fromarray(field).save(path)
    summary = {
        "path": str(path),
        "mpp": {"x": MPP, "y": MPP, "source": "option"},
        "provenance": {"empty glass, RGB": "244, 238, 236"},
    }
    (bag.sources[0] / "summary.json").write_text(json.dumps(summary))
    table = {"cell_id": bag.cell_ids.tolist(), "x_px0": [48.0, 144.0], "y_px0": [48.0, 48.0]}
    pq.write_table(pa.table(table), bag.sources[0] / "cells.parquet")
    return replace(bag, images=None, digests=None)


def test_a_slide_is_read_where_its_cells_lie(tmp_path: Path) -> None:
    bag = _on_slide(tmp_path, make_bag(tmp_path, "P1", 2, 1.0, seed=1))
    found = read_windows(bag, [1, 0], mpp=MPP, side=96)
    np.testing.assert_array_equal(found.images, np.stack([draw(2, 0.0), draw(1, 1.0)]))
    assert found.background.tolist() == [[244, 238, 236]] * 2


def test_a_moved_slide_is_named(tmp_path: Path) -> None:
    bag = _on_slide(tmp_path, make_bag(tmp_path, "P1", 2, 1.0, seed=1))
    (tmp_path / "field.png").unlink()
    with pytest.raises(DataError, match=r"needs the pixels of the slide.*field\.png.*--encoder frozen"):
        read_windows(bag, [0], mpp=MPP, side=96)
