"""Slides by scanner and batch: what is compared, how it is laid out, and that names cannot leave their cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wsi_pipeline.exports.report import write_cohort_report
from wsi_pipeline.exports.report.quality import (
    UNKNOWN,
    SlideQuality,
    count_reasons,
    quality_of,
    quality_plots,
)
from wsi_pipeline.exports.report.summary import SlideSummary


def slide(number: int, *, batch: str, scanner: str = "s", status: str = "ok", **values: float | None) -> SlideQuality:
    return SlideQuality(slide_id=f"s{number}", status=status, scanner=scanner, batch=batch, values=dict(values))


def test_groups_are_boxes_on_one_scale_each_measure() -> None:
    a = [slide(i, batch="a", **{"Mean flow error": 0.1 + 0.001 * i}) for i in range(9)]
    b = [slide(10 + i, batch="b", **{"Mean flow error": 0.3}) for i in range(4)]
    lost = [slide(20, batch="b", status="failed")]
    by_scanner, by_batch = quality_plots([*b, *lost, *a])
    assert by_scanner.title == "scanner"
    assert [(g.name, g.n, g.failed) for g in by_batch.groups] == [("a", 9, 0), ("b", 5, 1)]
    assert by_batch.measures == ("Mean flow error",)
    assert by_batch.scales == ((0.1, 0.3),)
    (box,), (other,) = by_batch.groups[0].boxes, by_batch.groups[1].boxes
    assert box is not None
    assert other is not None
    assert (box.low, box.first, box.middle, box.third, box.high) == (0.0, 1.0, 2.0, 3.0, 4.0)
    assert (other.n, other.middle, other.low, other.high) == (4, 100.0, 100.0, 100.0)
    assert len(box.points) == 9


def test_one_that_lies_outside_is_a_mark_and_not_in_the_whisker() -> None:
    values = [1.0] * 150 + [1.1] * 149 + [5.0]
    (plot,) = quality_plots(
        [slide(i, batch="a", scanner=UNKNOWN, **{"Mean flow error": v}) for i, v in enumerate(values)]
    )
    (box,) = plot.groups[0].boxes
    assert box is not None
    assert box.high < 5
    assert box.points == ((100.0, "s299"),)


def test_what_nobody_knows_is_not_plotted() -> None:
    assert quality_plots([slide(1, batch=UNKNOWN, scanner=UNKNOWN)]) == ()
    assert quality_plots([]) == ()


def test_reasons_are_counted_the_most_first() -> None:
    pairs = [("ok", ""), ("failed", "crash"), ("empty", "glass-only"), ("failed", "timeout"), ("failed", "crash")]
    assert count_reasons(pairs) == [("failed", "crash", 2), ("empty", "glass-only", 1), ("failed", "timeout", 1)]


def summary_of(slide_id: str, **more: Any) -> dict[str, Any]:
    return {"slide_id": slide_id, "specimen": "blood_smear", "status": "ok", "n_cells": 50, "area_mm2": 0.5, **more}


def test_a_summary_gives_what_is_compared() -> None:
    found = quality_of(
        "a",
        SlideSummary.model_validate(
            summary_of("a", batch="day 1", quality={"mean flow error": 0.2}, provenance={"scanner": "aperio SS1"})
        ),
    )
    assert (found.scanner, found.batch, found.values["Cells per mm²"]) == ("aperio SS1", "day 1", 100.0)
    assert found.values["Mean flow error"] == 0.2
    assert found.values["Mean cell probability"] is None
    bare = quality_of("b", SlideSummary.model_validate({**summary_of("b"), "area_mm2": None}))
    assert (bare.scanner, bare.batch, set(bare.values.values())) == (UNKNOWN, UNKNOWN, {None})


def test_the_report_shows_them_and_escapes_their_names(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    rows = ["slide_id,path,specimen,status,reason,mpp,area_mm2,n_cells,seconds"]
    for name, status, reason in (("a", "ok", ""), ("b", "ok", ""), ("c", "failed", "crash")):
        folder = tmp_path / "slides" / name
        folder.mkdir(parents=True)
        quality = {"quality": {"mean flow error": 0.2}} if status == "ok" else {}
        summary = {**summary_of(name), "status": status, "reason": reason or None, "batch": hostile, **quality}
        (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
        rows.append(f"{name},/{name}.svs,blood_smear,{status},{reason},,,,1")
    (tmp_path / "slides.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    write_cohort_report(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Quality by batch" in page
    assert "Quality by scanner" not in page
    assert "Slides without an answer" in page
    assert hostile not in page
    assert "&lt;script&gt;" in page
