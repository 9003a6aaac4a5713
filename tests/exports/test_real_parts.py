"""The exports with the package's own slides, regions and taxonomies, instead of stand-ins."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from make_cells import make_cells

from wsi_pipeline.exports.labels import write_labels
from wsi_pipeline.exports.qupath import write_qupath
from wsi_pipeline.exports.qupath_validator import validate_qupath
from wsi_pipeline.exports.report import write_slide_report
from wsi_pipeline.exports.report.summary import SlideSummary
from wsi_pipeline.predictions import DIFFERENTIAL_COLUMNS, PREDICTION_COLUMNS
from wsi_pipeline.regions import find_regions, write_regions
from wsi_pipeline.slides import open_slide
from wsi_pipeline.taxonomies import load_taxonomy, taxonomy_names


@pytest.mark.parametrize("name", taxonomy_names())
def test_every_shipped_class_is_one_qupath_class(name: str, tmp_path: Path) -> None:
    taxonomy = load_taxonomy(name)
    cells = make_cells(tmp_path / "cells.parquet", 40, size_px0=(500, 500))
    write_qupath(cells, tmp_path / "q.geojson.gz", offset_px0=(0, 0), taxonomy=taxonomy, specimen="blood_smear")
    assert validate_qupath(tmp_path / "q.geojson.gz") == []
    assert len({c.name_en for c in taxonomy.classes}) == len(taxonomy.classes)


def test_the_columns_that_reports_read_are_those_that_are_written() -> None:
    assert {"class", "percent", "count"} <= set(DIFFERENTIAL_COLUMNS)
    answer = SlideSummary.model_fields["predictions"].annotation
    assert answer is not None
    for column in ("level", "task", "class", "probability", "lower", "upper", "abstained", "trained_on"):
        assert column in PREDICTION_COLUMNS


@pytest.mark.data
def test_a_real_section(data_root: Path, tmp_path: Path) -> None:
    from wsi_pipeline.config import load_config

    config = load_config("trephine")
    with open_slide(data_root / "slides" / "cmu_small_region.svs") as slide:
        cells = make_cells(
            tmp_path / "cells.parquet", 300, size_px0=slide.dimensions, mpp=slide.mpp.x, kinds=("nucleus",)
        )
        regions = find_regions(slide, specimen="trephine", config=config.regions)
        write_regions(regions, tmp_path / "regions.geojson", slide)
        assert validate_qupath(tmp_path / "regions.geojson") == []
        summary = {"slide_id": "s", "specimen": "trephine", "status": "ok", "n_cells": 300, "working_mpp": 0.5}
        (tmp_path / "summary.json").write_text(json.dumps(summary))
        taxonomy = load_taxonomy("section")
        write_slide_report(tmp_path, slide=slide, taxonomy=taxonomy, specimen="trephine")
        offset = (float(slide.bounds.x0), float(slide.bounds.y0))
        write_qupath(cells, tmp_path / "q.geojson.gz", offset_px0=offset, taxonomy=taxonomy, specimen="trephine")
        out = tmp_path / "labels.ome.zarr"
        write_labels(cells, out, slide_size_px0=slide.dimensions, frame=slide.frame(0.5), mpp=0.5, name="s")
        assert zarr.open_group(out, mode="r")["0"].shape == slide.size_at(0.5)[::-1]
    assert len(np.unique(zarr.open_group(out, mode="r")["0"][:])) > 290
    assert len(json.loads(gzip.decompress((tmp_path / "q.geojson.gz").read_bytes()))["features"]) == 300
    html = (tmp_path / "report.html").read_text()
    assert html.count("data:image/jpeg") > 20
    assert "Nucleus" in html
