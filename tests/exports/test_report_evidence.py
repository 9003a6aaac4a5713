"""The report's evidence section: which cells are explained, what is counted, and what happens without pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_slide import FakeMpp, FakeSlide, summary, write_summary
from make_cells import make_cells

from wsi_pipeline.cells.classifier import load_classifier
from wsi_pipeline.cells.evidence import COLUMNS, Evidence
from wsi_pipeline.cells.out_of_distribution import fit_out_of_distribution
from wsi_pipeline.cells.reference import THUMB_PX, Reference, picture_sheet
from wsi_pipeline.exports.report import write_slide_report
from wsi_pipeline.exports.report.charts import Styles
from wsi_pipeline.exports.report.evidence import EvidenceView, explain_cells, slide_windows
from wsi_pipeline.taxonomies import load_taxonomy

LIGHT = np.array([240, 236, 232], np.uint8)
STYLES = Styles(load_taxonomy("pbc-blast"))


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """Evidence of the shipped classifier on random embeddings: its shapes, not its answers, matter here."""
    classifier = load_classifier("pbc-blast")
    rng = np.random.default_rng(0)
    m, n = 60, len(classifier.classes)
    embedding = rng.normal(size=(m, classifier.embedding_dim)).astype(np.float16)
    reference = Reference(
        embedding=embedding,
        place=rng.random((m, 2)).astype(np.float32),
        class_index=(np.arange(m) % n).astype(np.uint8),
        source_index=np.zeros(m, np.uint8),
        sheet=picture_sheet(rng.integers(0, 255, (m, THUMB_PX, THUMB_PX, 3), dtype=np.uint8)),
        classes=classifier.classes,
        sources=("pbc",),
    )
    p = rng.dirichlet(np.ones(n), m).astype(np.float32)
    score = fit_out_of_distribution(embedding, np.arange(m) % n, p, embedding)
    return Evidence(classifier, reference, score, "")


def _slide(**settings: bool) -> FakeSlide:
    pixels = np.random.default_rng(1).integers(0, 255, (1500, 2000, 3), dtype=np.uint8)
    return FakeSlide(pixels=pixels, mpp=FakeMpp(x=0.25, y=0.25), **settings)


def _cells(path: Path, *, scored: bool = True) -> pa.Table:
    """Two hundred cells in three classes; red cells among them have no score."""
    rng = np.random.default_rng(2)
    n = 200
    codes = np.array(["lymphocyte", "monocyte", "blast", "red_cell"])[rng.integers(0, 4, n)]
    red = codes == "red_cell"
    columns = {
        "x_px0": rng.uniform(0, 2000, n), "y_px0": rng.uniform(0, 1500, n), "class_name": codes,
        "class_probability": rng.random(n).astype(np.float32),
    }  # fmt: skip
    if scored:
        columns |= {name: pa.array(rng.random(n).astype(np.float32), mask=red) for name in COLUMNS}
    table = pa.table(columns)
    pq.write_table(table, path)
    return table


def _explained(folder: Path, slide: FakeSlide, evidence: Evidence) -> tuple[EvidenceView | None, list[str]]:
    return explain_cells(folder / "cells.parquet", slide_windows(slide, LIGHT, evidence), evidence, STYLES)  # type: ignore[arg-type]


def test_each_class_shows_its_surest_least_sure_and_most_unusual_cell(tmp_path: Path, evidence: Evidence) -> None:
    table = _cells(tmp_path / "cells.parquet").to_pandas()
    slide = _slide()
    view, problems = _explained(tmp_path, slide, evidence)
    assert view is not None
    assert problems == []
    typed = table[table["out_of_distribution"].notna()]
    assert (view.n, view.unusual) == (len(typed), int((typed["out_of_distribution"] > 0.95).sum()))
    assert not view.is_unlike_training  # of 150 random scores about one in twenty is
    assert replace(view, unusual=60).is_unlike_training
    assert not replace(view, n=13, unusual=2).is_unlike_training
    assert len(view.classes) == 3
    assert len(slide.reads) == sum(len(c.cells) for c in view.classes) <= 9  # heatmaps of these alone
    for shown, (_, rows) in zip(
        view.classes, sorted(typed.groupby("class_name"), key=lambda g: STYLES.position(str(g[0]))), strict=True
    ):
        by_why = {cell.why: cell for cell in shown.cells}
        assert by_why["surest"].probability == pytest.approx(rows["class_probability"].max())
        lowest = by_why.get("least sure", by_why["surest"])
        assert lowest.probability == pytest.approx(rows["class_probability"].min())
        assert max(c.out_of_distribution for c in shown.cells) == pytest.approx(rows["out_of_distribution"].max())
        for cell in shown.cells:
            assert len(cell.neighbours) == 5
            similar = [near.similarity for near in cell.neighbours]
            assert similar == sorted(similar, reverse=True)
            assert cell.heatmap_uri != cell.window_uri
    dots = sum(layer.slide.count("M") for layer in view.layers)
    assert dots == view.on_map == len(typed)
    assert sum(layer.reference.count("M") for layer in view.layers) == len(evidence.reference)


def test_a_slide_that_cannot_be_read_keeps_its_numbers(tmp_path: Path, evidence: Evidence) -> None:
    _cells(tmp_path / "cells.parquet")
    view, problems = _explained(tmp_path, _slide(corrupt=True), evidence)
    assert view is not None
    assert view.classes == ()
    assert view.n > 0
    assert all("could not be explained" in sentence for sentence in problems)
    assert problems


def test_a_table_without_scores_has_no_section(tmp_path: Path, evidence: Evidence) -> None:
    _cells(tmp_path / "cells.parquet", scored=False)
    assert _explained(tmp_path, _slide(), evidence) == (None, [])


def test_the_report_has_the_section_only_with_evidence(tmp_path: Path, evidence: Evidence) -> None:
    cells = tmp_path / "cells.parquet"
    make_cells(cells, 60, size_px0=(2000, 1500))
    table = pq.read_table(cells)
    white = np.array(table.column("kind").to_pylist()) == "white"
    rng = np.random.default_rng(3)
    for name in COLUMNS:
        table = table.append_column(name, pa.array(rng.random(len(table)).astype(np.float32), mask=~white))
    pq.write_table(table, cells)
    write_summary(tmp_path, summary({"lymphocyte": 60}))
    taxonomy = load_taxonomy("pbc-blast")
    for given, said in (({}, False), ({"evidence": evidence, "background": LIGHT}, True)):
        write_slide_report(tmp_path, slide=_slide(), taxonomy=taxonomy, specimen="blood_smear", **given)  # type: ignore[arg-type]
        page = (tmp_path / "report.html").read_text()
        assert ("Evidence for single cells" in page) == said
        assert ("map of embeddings" in page) == said
        assert (f"of {white.sum()} typed cells" in page) == said
