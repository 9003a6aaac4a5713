"""A run folder in which every text that a user or a file can choose is hostile, with all pages of reports."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fake_slide import summary
from make_run import SIZE_PX0, make_run

from wsi_pipeline.config import PredictionsConfig
from wsi_pipeline.exports.report import write_gallery_report
from wsi_pipeline.exports.report.answers import Subject, write_answers_report
from wsi_pipeline.predictions import EvidenceCell, ModelEvidence, ModelProbability, Prediction, criteria_predictions
from wsi_pipeline.predictions import differential as count
from wsi_pipeline.predictions.adequacy import slide_adequacy
from wsi_pipeline.predictions.bags import finished_slide
from wsi_pipeline.sentences import made_of, say
from wsi_pipeline.taxonomies import load_taxonomy

EVIL = "\"'><script>window.hit=1</script><img src=https://evil.example/x onerror=window.hit=2>{{7*7}}%(n)s{n}</title>"
COUNTS = {
    "segmented_neutrophil": 90, "band_neutrophil": 10, "lymphocyte": 40, "monocyte": 8, "eosinophil": 3, "blast": 30,
    "promyelocyte": 4, "erythroblast": 5, "artefact": 6, "red_cell": 3000, "platelet": 200,
}  # fmt: skip
TAXONOMY = load_taxonomy("pbc-blast")


def counted(counts: dict[str, int], slide_id: str, subject: str, level: str = "slide") -> dict[str, Any]:
    """Return what a run writes of counts: differential, answers, verdict, and what sentences are made of."""
    config = PredictionsConfig()
    found = count(counts, specimen="blood_smear", taxonomy=TAXONOMY, area_mm2=1.0)
    answers = criteria_predictions(
        found, slide_id=slide_id, subject_id=subject, specimen="blood_smear", taxonomy=TAXONOMY, config=config,
        level=level,  # type: ignore[arg-type]
    )  # fmt: skip
    verdict = slide_adequacy(
        n=found.n, config=config, n_cells=100, truncated=30, searched_mm2=1.0, lost_mm2=0.05, facts={}
    )
    content = {
        **found.to_dict(),
        "predictions": [answer.to_dict() for answer in answers],
        "adequacy": verdict.to_dict(),
        "warnings": [say("{n} cells are too small for QuPath's grid of 0.01 pixels and are not in its file.", n=3)],
    }
    return {**content, "sentences": made_of(content)}


def by_model(slide_id: str, subject: str, cells: Path, level: str = "slide") -> dict[str, Any]:
    """Return the answer of a model whose every word is hostile, with three cells behind it."""
    ids = pq.read_table(cells, columns=["cell_id", "kind"]).filter(pa.compute.field("kind") == "white")
    cell_ids = ids.column("cell_id").to_pylist()[:3]
    basis = ModelProbability(name=EVIL, fraction=0.9, lower=0.7, upper=0.97, confidence=0.95)
    evidence = ModelEvidence(
        probabilities={"apl": 0.9, EVIL: 0.1}, cells=tuple(EvidenceCell(cell_id=i, weight=0.2) for i in cell_ids),
        flags=(EVIL,), limits=(EVIL,), simulated=True,
    )  # fmt: skip
    return Prediction(
        slide_id=slide_id, level=level, subject_id=subject, task="apl", class_name="apl", basis=basis,  # type: ignore[arg-type]
        abstained=False, reason="", n_cells=200, model=EVIL, trained_on=EVIL, wording=EVIL, notes=(EVIL,),
        evidence=evidence,
    ).to_dict()  # fmt: skip


def hostile_run(folder: Path, slide_ids: tuple[str, ...] = ("a", "b", "c", "d")) -> Path:
    """Write the run; the last slide failed, the others are of one patient."""
    run = make_run(folder, slide_ids, embedding=True)
    files = folder.parent / f"{folder.name}-slides"
    rows, answers, shares = [], [], []
    for slide_id in slide_ids:
        path = run / "slides" / slide_id / "summary.json"
        known = json.loads(path.read_text())
        content: dict[str, Any] = counted(COUNTS, slide_id, EVIL)
        content["predictions"].append(by_model(slide_id, EVIL, path.parent / "cells.parquet"))
        content["warnings"] = [*content["warnings"], EVIL]
        provenance = {
            **known["provenance"],
            "cell classifier SHA-256": "ab",
            EVIL: EVIL,
            "version": "1",
            "scanner": EVIL,
        }
        data = {
            **summary(COUNTS, slide_id=slide_id), **known, **content, "specimen": "blood_smear", "status": "ok",
            "counts": {"kind": {"white": 185, EVIL: 3}, "class": COUNTS}, "path_name": EVIL, "subject_id": EVIL,
            "label": EVIL, "batch": EVIL, "path": str(files / f"{slide_id}.tiff"), "provenance": provenance,
            "quality": {EVIL: EVIL, "truncated": 3}, "timings": {EVIL: 1.0},
            "mpp": {"x": 0.25, "y": 0.25, "source": "slide"},
        }  # fmt: skip
        status, reason = "ok", ""
        if slide_id == slide_ids[-1]:
            status, reason = "failed", EVIL
            data = {"slide_id": slide_id, "specimen": "blood_smear", "status": status, "reason": reason,
                    "subject_id": EVIL, "warnings": [EVIL]}  # fmt: skip
        path.write_text(json.dumps(data))
        rows.append({
            "slide_id": slide_id, "path": str(files / f"{slide_id}.tiff"),
            "specimen": "blood_smear", "status": status, "reason": reason, "mpp": 0.25, "area_mm2": 1.0,
            "n_cells": 3396, "seconds": 3,
        })  # fmt: skip
        if status == "ok":
            answers += data["predictions"]
            shares += [{"slide_id": slide_id, **{k: row[k] for k in ("class", "count", "percent", "lower", "upper")}}
                       for row in data["differential"]]  # fmt: skip
    cells = run / "slides" / slide_ids[0] / "cells.parquet"
    patient = counted({code: 3 * n for code, n in COUNTS.items()}, "", EVIL, "patient")
    patient["predictions"].append(by_model("", EVIL, cells, "patient"))
    answers += patient["predictions"]
    entry = {
        **patient, "subject_id": EVIL, "specimen": "blood_smear", "slide_ids": list(slide_ids[:-1]),
        "taxonomy": "pbc-blast", "confidence": 0.95, "notes": [EVIL],
        "counts": {code: 3 * n for code, n in COUNTS.items()},
    }  # fmt: skip
    (run / "patients.json").write_text(json.dumps({"patients": [entry]}))
    columns = ("slide_id", "level", "subject_id", "task", "class", "probability", "lower", "upper", "abstained",
               "reason", "n_cells", "model", "trained_on")  # fmt: skip
    plain = [{k: str(a["abstained"]).lower() if k == "abstained" else a.get(k) for k in columns} for a in answers]
    for name, table in (("slides.csv", rows), ("predictions.csv", plain), ("differential.csv", shares)):
        with (run / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    document = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**document, EVIL: [EVIL, {"a": EVIL}]}))
    return run


def gallery_page(folder: Path) -> Path:
    """Write the report of a patient of a gallery and return where."""
    folder.mkdir(parents=True)
    names = [code for code in ("blast", "lymphocyte", "monocyte") for _ in range(15)]
    table = pa.table({
        "cell_id": [f"c{i}" for i in range(len(names))], "class_name": names,
        "class_probability": np.linspace(0.4, 0.99, len(names)), "image": [f"{EVIL}{i}.png" for i in range(len(names))],
        "label_given": [EVIL] * len(names), "truncated": [False] * len(names),
    })  # fmt: skip
    pq.write_table(table, folder / "cells.parquet")
    content = counted(COUNTS, "patient-1", EVIL)
    rows = [{"class": EVIL, "compared": False, "n": 45, "note": EVIL}]
    data = {
        **summary(COUNTS, slide_id="patient-1"), **content, "specimen": "blood_smear", "taxonomy": "pbc-blast",
        "gallery": {"images": 45, "used": 45}, "subject_id": EVIL, "path_name": EVIL,
        "agreement": {"rows": rows, "confusion": [{"class": EVIL, "answers": {EVIL: 45}}]},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(data))
    pixels = np.random.default_rng(0).integers(0, 255, (120, 120, 3), dtype=np.uint8)
    write_gallery_report(folder, taxonomy=TAXONOMY, specimen="blood_smear", read=lambda name: pixels)
    return folder / "report.html"


def answers_page(run: Path, path: Path) -> Path:
    """Write the report of models' answers about a run and return where."""
    slide = finished_slide(run / "slides" / "a")
    answer = by_model("a", EVIL, slide.cells)
    subjects = [Subject(name=EVIL, level="slide", slides=(slide,), answers=(answer,))]
    write_answers_report(path, subjects, read_image=lambda _: np.zeros((9, 9, 3), np.uint8), notes=[EVIL])
    return path


__all__ = ["EVIL", "SIZE_PX0", "answers_page", "gallery_page", "hostile_run"]
