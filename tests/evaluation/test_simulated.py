"""A run on virtual slides against their truth: hand-made runs with known answers, and one real small slide."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.polygons import Outlines, assign, decode, match_polygons
from wsi_pipeline.evaluation.segmentation import instance_overlaps, match_instances
from wsi_pipeline.evaluation.simulated import evaluate_simulated
from wsi_pipeline.evaluation.simulated_data import read_truth
from wsi_pipeline.evaluation.simulated_tables import simulated_metrics, simulated_table

SIDE = 2000
Cell = tuple[str, str, float, float]
"""Kind, class, centre x and y of a square of 20 pixels."""


def square(x: float, y: float, half: float = 10) -> shapely.Polygon:
    return shapely.box(x - half, y - half, x + half, y + half)


def write_truth(path: Path, cells: Sequence[Cell], *, more: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = shapely.box(0, 0, SIDE, SIDE)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        header = ["class", "kind", "x_px0", "y_px0", "truncated", "outline", "source"]
        writer.writerow([*header, "variant"] if more else header)
        for kind, name, x, y in cells:
            shape = square(x, y)
            cut = str(not whole.covers(shape)).lower()
            writer.writerow([name, kind, x, y, cut, shape.wkt, "pbc/x.jpg", *(["plain"] if more else [])])


def write_run(
    run: Path,
    slides: dict[str, Sequence[Cell]],
    *,
    specimen: str = "blood_smear",
    classifier: str | None = "pbc-blast",
    corrected: Sequence[dict[str, Any]] = (),
    statuses: dict[str, str] | None = None,
    region: shapely.Polygon | None = None,
) -> None:
    """Write what of a run is read, for cells that are squares."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / "slides.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["slide_id", "path", "specimen", "status", "reason"])
        for slide_id in slides:
            status = (statuses or {}).get(slide_id, "ok")
            writer.writerow(
                [slide_id, f"/elsewhere/{slide_id}.tiff", specimen, status, "unreadable" * (status == "failed")]
            )
    for slide_id, cells in slides.items():
        folder = run / "slides" / slide_id
        folder.mkdir(parents=True)
        searched = region or shapely.box(0, 0, SIDE, SIDE)
        shapes = [square(x, y) for _, _, x, y in cells]
        table = pa.table(
            {
                "geometry": pa.array([s.wkb for s in shapes], pa.binary()),
                "x_px0": pa.array([c[2] for c in cells], pa.float64()),
                "y_px0": pa.array([c[3] for c in cells], pa.float64()),
                "kind": pa.array([c[0] for c in cells], pa.string()),
                "class_name": pa.array([c[1] for c in cells], pa.string()),
                "truncated": pa.array([not searched.covers(s) for s in shapes], pa.bool_()),
            }
        )
        pq.write_table(table, folder / "cells.parquet")
        feature = {
            "type": "Feature",
            "geometry": json.loads(shapely.to_geojson(searched)),
            "properties": {"metadata": {"status": "included"}},
        }
        (folder / "regions.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
        white = [c[1] for c in cells if c[0] == "white"]
        n = len([w for w in white if w != "erythroblast"])
        rows = [{"class": w, "percent": 100 * white.count(w) / n} for w in sorted(set(white)) if w != "erythroblast"]
        summary = {
            "mpp": {"x": 0.25, "y": 0.25, "source": "slide"},
            "working_mpp": 0.25,
            "taxonomy": "pbc-blast" if specimen != "trephine" else "section",
            "provenance": {"cell classifier": classifier},
            "differential": rows,
            "differential_corrected": {"reason": None if corrected else "too-few-cells", "rows": list(corrected)},
        }
        (folder / "summary.json").write_text(json.dumps(summary))


# Figures -------------------------------------------------------------------------------------------------------------

TRUTH: list[Cell] = [
    ("white", "lymphocyte", 100, 100),
    ("white", "lymphocyte", 200, 100),
    ("white", "monocyte", 900, 100),
    ("white", "erythroblast", 400, 100),
    ("red", "red_cell", 100, 900),
    ("red", "red_cell", 200, 900),
    ("red", "red_cell", 5, 500),  # cut by the edge
    ("platelet", "platelet", 700, 700),
]
FOUND: list[Cell] = [
    ("white", "lymphocyte", 102, 100),
    ("white", "monocyte", 200, 101),
    ("white", "monocyte", 900, 100),
    ("white", "erythroblast", 400, 100),
    ("red", "red_cell", 100, 900),
    ("platelet", "platelet", 200, 900),  # of the wrong kind
    ("red", "red_cell", 6, 500),
    ("red", "red_cell", 1500, 1500),  # nothing there
    ("other", "other", 1600, 1500),  # claims nothing
    ("platelet", "platelet", 713, 700),  # IoU below a half
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    corrected = [
        {"level": "class", "class": "lymphocyte", "members": ["lymphocyte"], "percent": 60.0, "lower": 50.0,
         "upper": 70.0},
        {"level": "class", "class": "monocyte", "members": ["monocyte"], "percent": 40.0, "lower": 35.0,
         "upper": 45.0},
        {"level": "merged", "class": "neutrophils", "members": ["band_neutrophil", "segmented_neutrophil"],
         "percent": 0.0, "lower": 0.0, "upper": 3.0},
        {"level": "group", "class": "eosinophils and basophils", "members": ["eosinophil", "basophil"],
         "percent": 0.0, "lower": 0.0, "upper": 2.0},
    ]  # fmt: skip
    write_run(tmp_path / "run", {"a": FOUND}, corrected=corrected)
    write_truth(tmp_path / "truth" / "a.truth.csv", TRUTH)
    return tmp_path / "run"


def test_figures_by_kind_are_those_counted_by_hand(run: Path, tmp_path: Path) -> None:
    result = evaluate_simulated(run, tmp_path / "truth")
    kinds = {k.kind: (k.n_true, k.n_pred, k.tp, k.fp, k.fn) for k in result.kinds}
    assert kinds == {"white": (4, 4, 4, 0, 0), "red": (2, 2, 1, 1, 1), "platelet": (1, 2, 0, 2, 1)}
    red = next(k for k in result.kinds if k.kind == "red")
    assert (red.ap50.value, red.precision.value, red.recall.value, red.f1.value) == pytest.approx(
        (1 / 3, 0.5, 0.5, 0.5)
    )
    assert red.recall.lower is not None
    assert result.confusion["red"] == {"white": 0, "red": 1, "platelet": 1, "(missed)": 0}
    assert result.confusion["platelet"]["(missed)"] == 1
    assert result.confusion["(nothing)"] == {"white": 0, "red": 1, "platelet": 1, "(missed)": 0}
    assert result.resampled == "squares of 128 um"


def test_white_cells_by_class_and_the_differential(run: Path, tmp_path: Path) -> None:
    result = evaluate_simulated(run, tmp_path / "truth")
    assert result.classes is not None
    assert result.classes.classes == ("erythroblast", "lymphocyte", "monocyte")
    assert result.classes.confusion == ((1, 0, 0), (0, 1, 1), (0, 0, 1))
    (slide,) = result.slides
    rows = {(r.level, r.name): r for r in slide.differential}
    assert slide.n_white == 4
    lymphocyte, monocyte = rows["class", "lymphocyte"], rows["class", "monocyte"]
    assert (lymphocyte.true, lymphocyte.raw, lymphocyte.corrected) == pytest.approx((200 / 3, 100 / 3, 60))
    assert (lymphocyte.covered, monocyte.covered) == (True, False)
    assert ("class", "erythroblast") not in rows  # on blood outside the denominator
    assert rows["merged", "neutrophils"].true == 0
    assert slide.largest_error("raw") == pytest.approx(100 / 3)
    assert slide.largest_error("corrected") == pytest.approx(20 / 3)
    metrics = json.loads(json.dumps(simulated_metrics(result), allow_nan=False))
    assert metrics["slides"][0]["intervals_covering"] == {"covered": 1, "of": 2}
    assert metrics["kinds"]["red"]["n"] == 2
    text = simulated_table(result)
    for words in (
        "AP50",
        "(missed)",
        "White cells that were found",
        "Differential of a, 4 white cells",
        "NO",
        "[eosinophils and basophils]",
    ):
        assert words in text


def test_a_run_without_a_classifier_or_on_sections_has_no_classes(tmp_path: Path) -> None:
    found = [("white", "white_cell", x, y) if k == "white" else (k, c, x, y) for k, c, x, y in FOUND]
    write_run(tmp_path / "run", {"a": found}, classifier=None)
    write_truth(tmp_path / "a.truth.csv", TRUTH, more=False)
    result = evaluate_simulated(tmp_path / "run", tmp_path)
    assert result.classes is None
    assert result.slides[0].differential == ()
    nuclei: list[Cell] = [("nucleus", "nucleus", 100 * i, 500) for i in range(1, 15)]
    write_run(tmp_path / "section", {"s": nuclei}, specimen="trephine", classifier=None)
    write_truth(tmp_path / "s.truth.csv", [*nuclei[1:], ("megakaryocyte", "megakaryocyte", 100, 500)])
    result = evaluate_simulated(tmp_path / "section", tmp_path)
    assert result.confusion["megakaryocyte"]["nucleus"] == 1
    assert {k.kind: (k.tp, k.fp, k.fn) for k in result.kinds} == {"nucleus": (13, 1, 0), "megakaryocyte": (0, 0, 1)}


def test_only_what_was_searched_counts(tmp_path: Path) -> None:
    left = shapely.box(0, 0, 800, SIDE)
    cells: list[Cell] = [("red", "red_cell", x, 300) for x in (100, 795, 1200)]
    write_run(tmp_path / "run", {"a": cells[:2]}, region=left)
    write_truth(tmp_path / "a.truth.csv", cells)
    result = evaluate_simulated(tmp_path / "run", tmp_path)
    assert [(k.n_true, k.n_pred) for k in result.kinds] == [(1, 1)]


def test_many_slides_are_resampled_whole(tmp_path: Path) -> None:
    slides: dict[str, Sequence[Cell]] = {f"s{i}": TRUTH[: 4 + i % 3] for i in range(10)}
    write_run(tmp_path / "run", {**slides, "bad": []}, statuses={"bad": "failed"})
    for name in (*slides, "bad"):
        write_truth(tmp_path / f"{name}.truth.csv", TRUTH)
    result = evaluate_simulated(tmp_path / "run", tmp_path)
    assert (result.resampled, result.left_out) == ("slides", {"bad": "unreadable"})
    assert len(result.slides) == 10
    text = simulated_table(result)
    assert "left out, without results: bad (unreadable)" in text
    assert "2 further differentials" in text


def test_a_slide_without_cells_has_missed_them_all(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {"a": []}, statuses={"a": "empty"})
    write_truth(tmp_path / "a.truth.csv", TRUTH)
    result = evaluate_simulated(tmp_path / "run", tmp_path)
    assert {k.kind: (k.tp, k.fp, k.fn) for k in result.kinds}["white"] == (0, 0, 4)
    write_truth(tmp_path / "a.truth.csv", [])
    assert evaluate_simulated(tmp_path / "run", tmp_path).kinds == ()


# Errors --------------------------------------------------------------------------------------------------------------


def test_errors_say_what_is_wrong(run: Path, tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    with pytest.raises(DataError, match="not a run's folder"):
        evaluate_simulated(tmp_path, truth)
    with pytest.raises(DataError, match="is not a folder"):
        evaluate_simulated(run, tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"has no a\.truth\.csv \(slide a\)"):
        evaluate_simulated(run, tmp_path)
    table = truth / "a.truth.csv"
    good = table.read_text()
    for text, words in (
        (good.replace("outline", "shape", 1), "no column outline"),
        ("", "found nothing"),
        (good.replace("false", "no", 1), "true or false"),
        (good.replace("POLYGON ((", "POLYGON ((x", 1), "not a truth table"),
        (good.replace("POLYGON", "LINESTRING", 1).replace("((", "(", 1).replace("))", ")", 1), "no polygon"),
        (good.replace("100.0,100.0", "left,100.0", 1).replace(",100,100,", ",left,100,", 1), "not a truth table"),
    ):
        table.write_text(text)
        with pytest.raises(DataError, match=words):
            evaluate_simulated(run, truth)
    table.write_text(good)
    summary = run / "slides" / "a" / "summary.json"
    before = summary.read_text()
    summary.write_text(before.replace("taxonomy", "labels"))
    with pytest.raises(DataError, match="another version"):
        evaluate_simulated(run, truth)
    summary.write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        evaluate_simulated(run, truth)
    summary.write_text(before)
    (run / "slides" / "a" / "cells.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not a cell table"):
        evaluate_simulated(run, truth)
    (run / "slides" / "a" / "cells.parquet").unlink()
    with pytest.raises(DataError, match=r"has no cells\.parquet"):
        evaluate_simulated(run, truth)
    (run / "slides.csv").unlink()
    with pytest.raises(DataError, match="not finished"):
        evaluate_simulated(run, truth)
    (run / "slides.csv").write_text("slide\nx\n")
    with pytest.raises(DataError, match="no column path"):
        evaluate_simulated(run, truth)


def test_a_run_of_failures_has_nothing_to_compare(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {"a": []}, statuses={"a": "failed"})
    write_truth(tmp_path / "a.truth.csv", TRUTH)
    with pytest.raises(DataError, match=r"no slide has results: a \(unreadable\)"):
        evaluate_simulated(tmp_path / "run", tmp_path)


# Matching ------------------------------------------------------------------------------------------------------------


def outlines(shapes: Sequence[shapely.Polygon]) -> Outlines:
    return Outlines.measure(np.array([s.wkb for s in shapes], object))


def test_more_pairs_win_over_a_better_one() -> None:
    rows, columns = assign(np.array([0, 0, 1, 7]), np.array([0, 1, 0, 3]), np.array([0.9, 0.5, 0.5, 0.6]))
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0), (7, 3)]


def test_outlines_that_cross_themselves_are_mended() -> None:
    bow = shapely.from_wkt("POLYGON ((0 0, 10 10, 10 0, 0 10, 0 0))")
    (mended,) = decode(np.array([bow.wkb], object))
    assert mended.is_valid
    with pytest.raises(ValueError, match="missing"):
        decode(np.array([None], object))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_polygons_are_matched_as_label_images_are(seed: int) -> None:
    """Boxes on the pixel grid, drawn and as polygons, give the same counts; boxes of one image do not overlap."""
    rng = np.random.default_rng(seed)
    side, step = 120, 15
    images, shapes = [], []
    for _ in range(2):
        labels = np.zeros((side, side), np.int32)
        boxes = []
        for number in range((side // step) ** 2):
            if rng.random() < 0.5:
                continue
            y0, x0 = np.array(divmod(number, side // step)) * step + rng.integers(0, 4, 2)
            y1, x1 = y0 + rng.integers(7, 12), x0 + rng.integers(7, 12)
            labels[y0:y1, x0:x1] = len(boxes) + 1
            boxes.append(shapely.box(x0, y0, x1, y1))
        images.append(labels)
        shapes.append(boxes)
    if not shapes[0] or not shapes[1]:
        return
    true, pred = (outlines(s) for s in shapes)
    edge = [(o.bounds[:, :2] <= 0).any(axis=1) | (o.bounds[:, 2:] >= side).any(axis=1) for o in (true, pred)]
    found = match_polygons(true, pred, ignored=edge[0], cut=edge[1])
    expected = match_instances(instance_overlaps(*images))
    pairs = {(t + 1, int(p) + 1) for t, p in enumerate(found.partner) if p >= 0}
    assert pairs == {pair[:2] for pair in expected.pairs}
    assert set(np.flatnonzero(found.missed) + 1) == set(expected.missed)
    assert set(np.flatnonzero(found.false) + 1) == set(expected.false)


# A real slide --------------------------------------------------------------------------------------------------------


def test_a_real_run_on_a_virtual_slide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from wsi_pipeline import cohort
    from wsi_pipeline.cli import main as cli
    from wsi_pipeline.runtime.executor import SerialExecutor
    from wsi_pipeline.simulation import make_virtual_slide

    @contextmanager
    def executor(_cluster: str, _config: Any):  # type: ignore[no-untyped-def]
        yield SerialExecutor()

    made = make_virtual_slide(tmp_path / "small.tiff", profile="aml", size_px=800, seed=4)
    monkeypatch.setattr(cohort, "open_executor", executor)
    overrides = {"exports.report": False, "exports.qupath": False}
    cohort.run_cohort([made.path], tmp_path / "run", "marrow_smear", overrides=overrides)
    words = ["evaluate", "simulated", str(tmp_path / "run"), "--truth", str(tmp_path), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["wsi-pipeline", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    said = capsys.readouterr().out
    assert "Differential of small" in said
    assert "not corrected: too-few-cells" in said
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["kinds"]["red"]["f1"] > 0.9
    assert metrics["kinds"]["white"]["recall"] > 0.8
    truth = read_truth(made.truth)
    assert metrics["kinds"]["red"]["n"] <= (truth.kind == "red").sum()
