from __future__ import annotations

import base64
import csv
import io
import json
import re
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from fake_slide import FakeMpp, FakeSlide, summary, write_summary
from make_cells import CLASSES, FakeTaxonomy, make_cells
from page import Page, self_contained
from PIL import Image

from wsi_pipeline.config import PredictionsConfig
from wsi_pipeline.errors import DataError
from wsi_pipeline.exports.report import write_cohort_report, write_slide_report
from wsi_pipeline.exports.report.charts import Styles, diameter_chart, differential_chart, stacked
from wsi_pipeline.exports.report.select import select, shown
from wsi_pipeline.exports.report.summary import DiameterHistogram, DifferentialRow, SlideSummary
from wsi_pipeline.exports.report.text import interval, label, number, percent, reason, seconds
from wsi_pipeline.predictions.red_cells import red_cell_differential
from wsi_pipeline.taxonomies import load_taxonomy
from wsi_pipeline.weights import shipped_weights

COUNTS = {"segmented_neutrophil": 120, "lymphocyte": 60, "blast": 40, "monocyte": 0}
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}'


@pytest.fixture
def slide() -> FakeSlide:
    rng = np.random.default_rng(1)
    return FakeSlide(pixels=rng.integers(0, 255, (2000, 3000, 3), dtype=np.uint8), mpp=FakeMpp(x=0.25, y=0.25))


def _regions(path: Path, name: str = "Searched") -> None:
    features = [
        {
            "type": "Feature",
            "id": str(uuid.uuid4()),
            "geometry": shapely.box(10, 10, 2000, 1500).__geo_interface__,
            "properties": {
                "objectType": "annotation",
                "name": name,
                "classification": {"name": "Region", "color": [0, 110, 200]},
                "metadata": {"status": "included", "reason": "all"},
            },
        }
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def _report(folder: Path, slide: FakeSlide, taxonomy: Any, specimen: str = "blood_smear") -> Page:
    write_slide_report(folder, slide=slide, taxonomy=taxonomy, specimen=specimen)
    return Page((folder / "report.html").read_text())


def test_slide_report_is_whole_andself_contained(tmp_path: Path, slide: FakeSlide, fake_taxonomy: FakeTaxonomy) -> None:
    make_cells(tmp_path / "cells.parquet", 700, size_px0=(3000, 2000))
    _regions(tmp_path / "regions.geojson")
    write_summary(tmp_path, summary(COUNTS))
    page = _report(tmp_path, slide, fake_taxonomy)
    self_contained(page)
    for words in (
        "Research use only", "slide-1.svs", "Blasts in AML range", "Blasts in AML range (20 % or more)",
        "No answer", "dysplasia is not among the model's classes", "SIMULATED", "few cells: read with caution",
        "220 cells in the denominator", "54.5", "nucleated white cells, without nucleated red cells",
        "Platelets per 1,000 red cells", "M:E ratio", "not in the denominator", "Mean cell probability", "2.72",
        "1 min 23 s", "compact-smear", "12 cells are cut by the edge", "Searched: 0.185 mm² (1 piece)",
        "the field with the most nucleated cells"[1:], "most confident", "least confident", "µm wide",
    ):  # fmt: skip
        assert words in page.text, words
    kinds = [str(a["src"]).split(";")[0] for a in page.of("img")]
    assert kinds.count("data:image/png") == 1
    assert kinds.count("data:image/jpeg") > 100
    assert len(page.of("path")) > 300
    for attrs in page.of("img")[:8]:
        raw = base64.b64decode(str(attrs["src"]).split(",", 1)[1])
        image = Image.open(io.BytesIO(raw))
        assert (str(image.width), str(image.height)) == (
            attrs.get("width", str(image.width)),
            attrs.get("height", str(image.height)),
        )
        assert max(image.size) <= 1201


@pytest.mark.parametrize(
    ("seams", "said"),
    [
        (
            {
                "reason": None,
                "distance_um": 10.0,
                "count_ratio": {"value": 1.0234, "lower": 0.951, "upper": 1.1},
                "straight_edges": {"border_um_per_mm": 3.12, "control_um_per_mm": 2.9},
            },
            "Seams: 1.02 times as many cells by area within 10 µm of a block's border as in the interiors "
            "(95 % interval 0.95 – 1.10); straight edges 3.12 µm per mm of border, 2.9 in the interiors.",
        ),
        (
            {"reason": "no-inner-borders", "distance_um": None, "count_ratio": None, "straight_edges": None},
            "Seams: not measured, the slide is one block, without borders inside.",
        ),
    ],
    ids=["measured", "one block"],
)
def test_the_report_says_whether_borders_show(
    tmp_path: Path, slide: FakeSlide, fake_taxonomy: FakeTaxonomy, seams: dict[str, Any], said: str
) -> None:
    write_summary(tmp_path, summary(COUNTS, quality={"blocks": 4, "seams": seams}))
    assert said in _report(tmp_path, slide, fake_taxonomy).text


def test_corrected_percentages_stand_beside_the_counted_ones(
    tmp_path: Path, slide: FakeSlide, fake_taxonomy: FakeTaxonomy
) -> None:
    section: dict[str, Any] = {
        "reason": None,
        "interval": "sampling + classification",
        "assumption": "It presumes that the classifier errs on this slide as it did on its test images.",
        "calibration": {"images": "test images", "n": 1234, "per_class": {}},
        "rows": [
            {"level": "class", "class": "blast", "percent": 17.04, "lower": 12.3, "upper": 22.96},
            {
                "level": "merged",
                "class": "neutrophils",
                "members": ["band_neutrophil", "segmented_neutrophil"],
                "percent": 61.23,
                "lower": 57.0,
                "upper": 65.5,
            },
        ],
    }
    write_summary(tmp_path, summary(COUNTS, differential_corrected=section))
    page = _report(tmp_path, slide, fake_taxonomy)
    for words in (
        "Corrected %", "corrected for classification error; interval: sampling + classification",
        "presumes that the classifier errs on this slide as it did on its test images", "17.0", "12.3 – 23.0",
        "Neutrophils, band and segmented", "61.2",
        "Band neutrophil + Segmented neutrophil are given together", "1\u202f234 images: test images",
    ):  # fmt: skip
        assert re.sub(r"\s+", " ", words) in page.text, words
    why = {"reason": "no-confusion-in-card", "wording": "The card of old does not say.", "rows": []}
    write_summary(tmp_path, summary(COUNTS, differential_corrected=why))
    page = _report(tmp_path, slide, fake_taxonomy)
    assert "Corrected %" not in page.text
    assert "Not corrected for classification error: the classifier's card does not say how it errs" in page.text


def _red_cells(counts: dict[str, int], **how: Any) -> dict[str, Any]:
    """Return what a run writes of red cells, counted by the shipped classifier's card."""
    card = shipped_weights()["red-cells"].card
    found = red_cell_differential(
        counts, {"truncated": 12, "overlapping": 0}, card=card, uncategorised="red_cell_uncategorised",
        specimen="blood_smear", config=PredictionsConfig(), **how,
    )  # fmt: skip
    histogram = {"from_um": 0.0, "step_um": 0.25, "counts": [0] * 26 + [40, 100, 60, 0, 5] + [0] * 33}
    size = {
        "n": 205, "diameter_um": {"mean": 6.9, "median": 6.875, "cv_percent": 7.3},
        "area_um2": {"mean": 38.0, "cv_percent": 15.1}, "histogram": histogram,
    }  # fmt: skip
    return {**found.to_dict(), "size": size}


def test_red_cells_stand_with_errors_and_sizes(tmp_path: Path, slide: FakeSlide, fake_taxonomy: FakeTaxonomy) -> None:
    counts = {"red_cell_normal": 4000, "schistocyte": 500, "teardrop": 2, "red_cell_uncategorised": 100}
    write_summary(tmp_path, summary(COUNTS, red_cells=_red_cells(counts)))
    write_slide_report(
        tmp_path, slide=slide, taxonomy=fake_taxonomy, specimen="blood_smear", also=load_taxonomy("red-cells")
    )
    page = Page((tmp_path / "report.html").read_text())
    for words in (
        "4\u202f602 red cells were judged by shape. Left out: 12 truncated.", "Schistocytes 1 % or more",
        "Teardrop cell",
        "no: may all be errors", "median 6.88 µm", "neither MCV nor RDW", "one laboratory's labels",
    ):  # fmt: skip
        assert re.sub(r"\s+", " ", words) in page.text, words
    write_summary(tmp_path, summary(COUNTS, red_cells=_red_cells(counts, outside=("cell_od_red",))))
    page = _report(tmp_path, slide, fake_taxonomy)
    assert "Not interpreted: the slide is unlike what the classifier has seen." in page.text
    assert "Schistocytes 1 % or more" not in page.text


def test_diameters_are_laid_out_on_whole_microns() -> None:
    chart = diameter_chart(DiameterHistogram(step_um=0.25, counts=(0,) * 26 + (5, 10, 0, 1)))
    assert chart is not None
    assert [label for _, label in chart.ticks] == ["6", "7", "8"]
    assert chart.columns[0] == (25, 12.5, 50)
    assert [height for _, _, height in chart.columns] == [50, 100, 10]
    assert diameter_chart(DiameterHistogram(step_um=0.25, counts=(0, 0))) is None


def test_everything_from_outside_is_escaped(tmp_path: Path, slide: FakeSlide) -> None:
    from make_cells import FakeClass

    cells = make_cells(tmp_path / "cells.parquet", 30, size_px0=(3000, 2000))
    table = pq.read_table(cells)
    index = table.schema.get_field_index("class_name")
    pq.write_table(table.set_column(index, "class_name", [[EVIL] * 30]), cells)
    _regions(tmp_path / "regions.geojson", EVIL)
    data = summary(COUNTS, slide_id=EVIL)
    evil: dict[str, Any] = json.loads(json.dumps(data))
    evil["path_name"] = evil["reason"] = EVIL
    evil["mpp"]["source"] = evil["denominator"]["wording"] = EVIL
    evil["counts"]["kind"] = {EVIL: 3}
    evil["differential"][0]["class"] = EVIL
    evil["quality"] = evil["provenance"] = {EVIL: EVIL}
    evil["timings"] = {EVIL: 1.0}
    evil["warnings"] = [EVIL]
    for part in (*evil["predictions"], *evil["indices"]):
        part.update({key: EVIL for key in part if isinstance(part[key], str)})
    write_summary(tmp_path, evil)
    names = FakeTaxonomy(
        name="x", classes=(FakeClass(code=EVIL, name_en=EVIL, name_fr=EVIL, color=(1, 2, 3)),), roll_ups={}
    )
    page = _report(tmp_path, slide, names, EVIL)
    self_contained(page)
    assert page.text.count("<script>alert(1)</script>") > 15
    assert "{{ 7*7 }}" in page.text
    assert "49" not in re.findall(r">\s*(49)\s*<", page.text)


def test_no_cells_says_so_and_why(tmp_path: Path, slide: FakeSlide, fake_taxonomy: FakeTaxonomy) -> None:
    empty = summary({"blast": 1}) | {
        "status": "empty", "reason": "no-tissue", "n_cells": 0, "counts": {"kind": {}, "class": {}},
        "differential": [], "denominator": {"n": 0, "wording": ""}, "predictions": [], "indices": [],
    }  # fmt: skip
    write_summary(tmp_path / "a", empty)
    page = _report(tmp_path / "a", slide, fake_taxonomy)
    assert "No cells found. no tissue" in page.text
    assert "no cell table" in page.text
    write_summary(tmp_path / "b", empty)
    make_cells(tmp_path / "b" / "cells.parquet", 0, size_px0=(10, 10))
    _regions(tmp_path / "b" / "regions.geojson")
    page = _report(tmp_path / "b", slide, fake_taxonomy)
    assert "No cells found." in page.text
    assert len(page.of("img")) == 2, "the overview and its layer"
    write_summary(tmp_path / "c", {"slide_id": "s", "specimen": "trephine", "status": "ok"})
    page = _report(tmp_path / "c", slide, fake_taxonomy, "trephine")
    assert "No cells found." in page.text
    assert "Cellularity" not in page.text


def test_cellularity_of_a_trephine_is_shown_with_its_interval(
    tmp_path: Path, slide: FakeSlide, fake_taxonomy: FakeTaxonomy
) -> None:
    facts = {"percent": 55.4, "lower": 48.2, "upper": 61.0, "n_spaces": 12, "area_mm2": 6.21, "reason": None}
    write_summary(tmp_path, summary({"blast": 1}) | {"regions": {"classes_mm2": {}, "cellularity": facts}})
    text = _report(tmp_path, slide, fake_taxonomy, "trephine").text
    assert "Cellularity: about 55 % (95 % interval over 12 marrow spaces 48 – 61 %)" in text


def test_unreadable_pixels_are_listed_not_hidden(tmp_path: Path, slide: FakeSlide, fake_taxonomy: FakeTaxonomy) -> None:
    make_cells(tmp_path / "cells.parquet", 50, size_px0=(3000, 2000))
    write_summary(tmp_path, summary(COUNTS))
    slide.corrupt = True
    page = _report(tmp_path, slide, fake_taxonomy)
    assert not page.of("img")
    assert "The overview could not be shown: slide <b>x</b>: level 0, tile 3 cannot be decoded" in page.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("summary.json", "{", "not a slide summary"),
        ("summary.json", json.dumps({"slide_id": "s", "specimen": "x", "status": "fine"}), "status"),
        ("regions.geojson", "[]", "not a regions file"),
        (
            "regions.geojson",
            '{"features":[{"geometry":{"type":"Polygon","coordinates":[[[0,0]]]}}]}',
            "not a regions file",
        ),
        ("cells.parquet", "text", "not a readable Parquet"),
    ],
)
def test_damaged_results_are_typed_errors(
    name: str, text: str, message: str, tmp_path: Path, slide: FakeSlide, fake_taxonomy: FakeTaxonomy
) -> None:
    write_summary(tmp_path, summary(COUNTS))
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        write_slide_report(tmp_path, slide=slide, taxonomy=fake_taxonomy, specimen="blood_smear")
    assert not (tmp_path / "report.html").exists()


def test_regions_move_back_from_qupaths_frame(tmp_path: Path, slide: FakeSlide, fake_taxonomy: FakeTaxonomy) -> None:
    slide.origin = (1000, 500)
    slide.pixels[:] = 255
    write_summary(tmp_path, summary(COUNTS))
    make_cells(tmp_path / "cells.parquet", 0, size_px0=(10, 10))
    _regions(tmp_path / "regions.geojson")
    page = _report(tmp_path, slide, fake_taxonomy)
    layer = next(str(a["src"]) for a in page.of("img") if "png" in str(a["src"]))
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(layer.split(",", 1)[1]))))
    drawn = np.argwhere(pixels[..., 3] > 0)
    scale = 2000 / 1200
    assert drawn.min(axis=0) == pytest.approx([10 / scale, 10 / scale], abs=3)
    assert drawn.max(axis=0) == pytest.approx([900 - 1, 1200 - 1], abs=3), "the rest lies outside the scan"


def test_selection_is_fixed_by_the_table(tmp_path: Path) -> None:
    cells = make_cells(tmp_path / "a.parquet", 3000, size_px0=(6000, 4000))
    where: dict[str, Any] = {
        "size_px0": (6000, 4000), "field_px0": (640.0, 480.0), "overview_origin_px0": (0.0, 0.0),
        "overview_scale": (5.0, 5.0), "overview_size": (1200, 800),
    }  # fmt: skip
    once = select(cells, **where)
    pq.write_table(pq.read_table(cells), tmp_path / "b.parquet", row_group_size=11)
    again = select(tmp_path / "b.parquet", **where)
    assert again.galleries == once.galleries
    assert again.fields == once.fields
    table = pq.read_table(cells).to_pandas()
    assert once.n_cells == 3000
    for gallery in once.galleries:
        mine = table[table.class_name == gallery.code]
        assert gallery.n == len(mine)
        high, low = shown(gallery)
        assert len({c.row for c in high} | {c.row for c in low}) == min(24, len(mine))
        if gallery.classified:
            expected = mine.class_probability.sort_values(ascending=False).head(12)
            assert [c.probability for c in high] == pytest.approx(expected.to_list())
            assert [c.probability for c in gallery.low] == pytest.approx(
                mine.class_probability.sort_values().head(12).to_list()
            )
    assert {g.code for g in once.galleries} >= {*CLASSES, "red_cell", "platelet"}
    richest = once.fields[0]
    inside = table[
        table.x_px0.between(richest.x0, richest.x1, "left") & table.y_px0.between(richest.y0, richest.y1, "left")
    ]
    assert len(inside) == richest.n_cells
    per_field = table[table.kind == "white"].groupby([table.y_px0 // 480, table.x_px0 // 640]).size()
    assert (inside.kind == "white").sum() == per_field[[i for i in per_field.index if i[0] < 8 and i[1] < 9]].max()
    assert once.dots.n == (table.kind == "white").sum()


def test_batches_do_not_change_the_selection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wsi_pipeline.exports.report import select as module

    cells = make_cells(tmp_path / "a.parquet", 500, size_px0=(3000, 2000))
    where: dict[str, Any] = {
        "size_px0": (3000, 2000), "field_px0": (640.0, 480.0), "overview_origin_px0": (0.0, 0.0),
        "overview_scale": (5.0, 5.0), "overview_size": (600, 400),
    }  # fmt: skip
    whole = select(cells, **where)
    original = module.iter_cells
    monkeypatch.setattr(module, "iter_cells", lambda *args: original(*args, batch_rows=7))
    small = select(cells, **where)
    assert sorted(small.galleries, key=lambda g: g.code) == sorted(whole.galleries, key=lambda g: g.code)
    assert small.fields == whole.fields


def _cohort(out: Path) -> None:
    (out / "slides" / "slide-1").mkdir(parents=True)
    (out / "slides" / "slide-1" / "report.html").write_text("x")
    write_summary(out / "slides" / "slide-1", summary(COUNTS, warnings=["Focus was poor."]))
    tables: dict[str, list[dict[str, Any]]] = {
        "slides.csv": [
            {"slide_id": "slide-1", "path": "/data/slide-1.svs", "specimen": "blood_smear", "status": "ok",
             "reason": "", "mpp": 0.25, "area_mm2": 1.5, "n_cells": 12345, "seconds": 61},
            {"slide_id": "bad 2", "path": "C:\\x\\other.svs", "specimen": "blood_smear", "status": "failed",
             "reason": "missing-mpp", "mpp": "", "area_mm2": "", "n_cells": "", "seconds": 1},
            {"slide_id": EVIL.replace("/", ""), "path": EVIL, "specimen": EVIL, "status": "failed", "reason": EVIL,
             "mpp": "", "area_mm2": "", "n_cells": "", "seconds": ""},
        ],
        "predictions.csv": [
            {"slide_id": "slide-1", "level": "slide", "subject_id": "", "task": "aml", "class": "aml_range",
             "probability": 0.31, "lower": 0.25, "upper": 0.37, "abstained": "false", "reason": "", "n_cells": 220,
             "model": "criteria", "trained_on": "criteria"},
            {"slide_id": "slide-1", "level": "slide", "subject_id": "", "task": "mds", "class": "", "probability": "",
             "lower": "", "upper": "", "abstained": "true", "reason": "no-dysplasia-classes", "n_cells": 220,
             "model": "criteria", "trained_on": "criteria"},
            {"slide_id": "", "level": "patient", "subject_id": "patient 7", "task": "aml", "class": "below_range",
             "probability": 0.01, "lower": 0.0, "upper": 0.02, "abstained": "false", "reason": "", "n_cells": 500,
             "model": "toy", "trained_on": "simulated cohort"},
        ],
        "differential.csv": [
            {"slide_id": "slide-1", "class": "blast", "count": 60, "percent": 60.0, "lower": 50, "upper": 69},
            {"slide_id": "slide-1", "class": "lymphocyte", "count": 40, "percent": 40.0, "lower": 31, "upper": 50},
            {"slide_id": "slide-1", "class": "artefact", "count": 3, "percent": "", "lower": "", "upper": ""},
        ],
    }  # fmt: skip
    for name, rows in tables.items():
        with (out / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    (out / "run.json").write_text(json.dumps({"config": {"a": {"b": [1, EVIL]}}, "device": "cpu"}))


def test_cohort_report(tmp_path: Path) -> None:
    _cohort(tmp_path)
    write_cohort_report(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    self_contained(page)
    links = [str(a["href"]) for a in page.of("a") if not str(a["href"]).startswith("#")]
    assert set(links) == {"slides/slide-1/report.html"}
    for words in (
        "1 slides ok", "2 failed", "the slide carries no microns per pixel", "other.svs", "12 345", "1 min 01 s",
        "Blasts in AML range", "31.0 % (25.0 – 37.0)", "no answer", "patient 7", "SIMULATED", "Focus was poor.",
        "config.a.b", "device", "Blast",
    ):  # fmt: skip
        assert words in page.text.replace("\u202f", " "), words
    bars = [(float(a["x"] or 0), float(a["width"] or 0)) for a in page.of("rect")]
    assert bars == [(0.0, 60.0), (60.0, 40.0)]


def test_cohort_report_with_only_failures(tmp_path: Path) -> None:
    (tmp_path / "slides.csv").write_text("slide_id,path,specimen,status,reason\nx,x.svs,trephine,failed,unreadable\n")
    write_cohort_report(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert "the file is damaged or incomplete" in page.text
    assert "no run.json" in page.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("slides.csv", "a,b\n1,2\n", "no column slide_id, status"),
        ("slides.csv", "slide_id,status\n../x,ok\n", "not the name of a folder"),
        ("slides.csv", "slide_id,status,n_cells\nx,ok,many\n", "'many' where a number"),
        ("predictions.csv", "task,abstained\naml,perhaps\n", "not true or false"),
        ("run.json", "{", "cannot be read"),
    ],
)
def test_damaged_run_tables_are_typed_errors(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        write_cohort_report(tmp_path)
    (tmp_path / "slides.csv").write_text("slide_id,status\nx,ok\n")
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        write_cohort_report(tmp_path)


def test_differential_chart_scales_and_orders(fake_taxonomy: FakeTaxonomy) -> None:
    rows = [
        DifferentialRow.model_validate({"class": code, "count": 1, "percent": p, "lower": p / 2, "upper": p * 1.5})
        for code, p in (("lymphocyte", 20.0), ("odd", 1.0), ("blast", 28.0))
    ]
    outside = DifferentialRow.model_validate({"class": "erythroblast", "count": 5, "in_denominator": False})
    chart = differential_chart([outside, *rows], Styles(fake_taxonomy))
    assert [bar.row.name for bar in chart.bars] == ["blast", "lymphocyte", "odd", "erythroblast"]
    assert chart.ticks[-1] == (100.0, "50")
    assert chart.bars[0].length == 56.0
    assert (chart.bars[0].low, chart.bars[0].high) == (28.0, 84.0)
    assert chart.bars[2].style.colour == "#808080"
    assert chart.bars[3].length is None
    assert differential_chart([], Styles(fake_taxonomy)).bars == ()
    assert stacked([("blast", 0.0)], Styles(fake_taxonomy)) == ()


def test_words_and_numbers() -> None:
    assert [number(v) for v in (None, True, 12, 123456, 0.0, 2.71828, 1234.5, 0.00001, float("nan"), "x")] == [
        "–", "yes", "12", "123\u202f456", "0", "2.72", "1\u202f234", "1e-05", "–", "x",
    ]  # fmt: skip
    assert [percent(v) for v in (None, 0.0, 0.01, 12.345, 100.0)] == ["–", "0.0", "<0.1", "12.3", "100.0"]
    assert interval(None, None) == "–"
    assert interval(1.0, None) == "1.0 – ∞"
    assert [seconds(v) for v in (0.44, 75, 3725)] == ["0.4 s", "1 min 15 s", "1 h 02 min"]
    assert reason("too-few-cells") == "too few cells"
    assert reason("brand-new-code") == "brand new code"
    assert reason("A sentence, kept.") == "A sentence, kept."
    assert label("median_area_um2") == ("Median area", "µm²")


def test_summary_takes_what_predictions_writes() -> None:
    data = SlideSummary.model_validate(summary(COUNTS))
    assert data.indices[0].note == "platelets per 1,000 red cells"
    assert data.indices[1].note == "no erythroid cell"
    assert data.predictions[0].class_name == "aml_range"
