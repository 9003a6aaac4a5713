"""Models in a run and about finished runs: the same rows, refused before anything starts, runs left as they are."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from toy_slide_model import write_toy
from written import digests, rows_of

from wsi_pipeline.cli import main as cli
from wsi_pipeline.cohort import CohortResult, execute, plan_cohort, plan_gallery
from wsi_pipeline.errors import ConfigError, DataError, ModelError, OutputError
from wsi_pipeline.exports.qupath_validator import validate_qupath
from wsi_pipeline.exports.report import answers as report_of_answers
from wsi_pipeline.finished_runs.predict import predict_slides
from wsi_pipeline.simulation import make_virtual_slide

MPP = 0.25


pytestmark = pytest.mark.usefixtures("in_this_process")


def image(path: Path, seed: int) -> None:
    """Write a white cell about 12 um wide with a dark nucleus, on pale glass."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :96] + 0.5
    distance = np.hypot(x - 48, y - 48)
    pixels = np.full((96, 96, 3), (244, 238, 236), float)
    pixels[distance < 24] = (214, 200, 222)
    pixels[distance < 10 + seed % 8] = (96, 50, 140)
    Image.fromarray(np.clip(pixels + rng.normal(0, 5, pixels.shape), 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gallery")
    for k in range(12):
        image(root / ("P1" if k < 6 else "P2") / f"{k}.png", k)
    return root


def run(gallery: Path, out: Path, *models: Path, **options: Any) -> CohortResult:
    """Run a gallery as marrow, where what drawn cells are taken for is of the denominator."""
    overrides = {"runtime.device": "cpu", "predictions.slide_models": [str(m) for m in models]}
    return execute(plan_gallery(gallery, out, "marrow_smear", mpp=MPP, overrides=overrides, **options))


def test_a_run_and_predict_slides_give_the_same_answers(gallery: Path, tmp_path: Path) -> None:
    model = write_toy(tmp_path)
    run(gallery, tmp_path / "run", model)
    rows = rows_of(tmp_path / "run" / "predictions.csv")
    mine = [row for row in rows if row["model"] == "toy"]
    assert [(r["level"], r["slide_id"], r["subject_id"]) for r in mine] == [
        ("slide", "P1", "P1"), ("slide", "P2", "P2"), ("patient", "", "P1"), ("patient", "", "P2"),
    ]  # fmt: skip
    # Of each subject the criteria come first.
    assert [r["model"] for r in rows if r["slide_id"] == "P1"][-2:] == ["criteria", "toy"]
    assert all(r["abstained"] == "false" and 0 < float(r["probability"]) < 1 for r in mine)

    plain, out = tmp_path / "plain", tmp_path / "answers"
    run(gallery, plain)
    before = digests(plain)
    predict_slides([plain], out, models=[str(model)])
    assert digests(plain) == before
    assert rows_of(out / "predictions.csv") == mine
    for patient in ("P1", "P2"):
        name = f"slides/{patient}/attention.parquet"
        assert (out / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    weights = pq.read_table(out / "slides" / "P1" / "attention.parquet")
    cells = pq.read_table(plain / "slides" / "P1" / "cells.parquet", columns=["cell_id"])
    assert weights.column("cell_id").to_pylist() == sorted(cells.column("cell_id").to_pylist())
    assert sum(weights.column("attention_toy").to_pylist()) == pytest.approx(1, abs=1e-6)
    shares = rows_of(out / "probabilities.csv")
    assert sum(float(r["probability"]) for r in shares if r["slide_id"] == "P1") == pytest.approx(1, abs=1e-5)
    for report in (out / "report.html", tmp_path / "run" / "slides" / "P1" / "report.html"):
        text = report.read_text()
        assert "It is a toy." in text
        assert text.count("data:image/jpeg") >= 3


def test_the_same_run_again_does_nothing_and_other_models_are_another_run(gallery: Path, tmp_path: Path) -> None:
    model = write_toy(tmp_path)
    run(gallery, tmp_path / "run", model)
    before = digests(tmp_path / "run" / "slides")
    (moved := tmp_path / "elsewhere").mkdir()
    run(gallery, tmp_path / "run", write_toy(moved))
    assert digests(tmp_path / "run" / "slides") == before
    with pytest.raises(ConfigError, match="another configuration"):
        run(gallery, tmp_path / "run", write_toy(tmp_path, "other"))
    with pytest.raises(ConfigError, match="another configuration"):
        run(gallery, tmp_path / "run")


def test_simulated_models_answer_only_where_that_is_allowed(gallery: Path, tmp_path: Path) -> None:
    model = write_toy(tmp_path, "made-up", simulated=True)
    run(gallery, tmp_path / "plain")
    for allowed in (False, True):
        out = tmp_path / str(allowed)
        predict_slides([tmp_path / "plain"], out, models=[str(model)], allow_simulated=allowed)
        rows = rows_of(out / "predictions.csv")
        assert {r["abstained"] for r in rows} == {"false" if allowed else "true"}
        assert {r["reason"] for r in rows} == {"" if allowed else "no-real-training-data"}
        assert {r["trained_on"] for r in rows} == {"simulated: nothing"}
        assert ("SIMULATED</span> At least one" in (out / "report.html").read_text()) is allowed
        assert (out / "slides" / "P1" / "attention.parquet").is_file() is allowed
        assert bool(rows_of(out / "probabilities.csv")) is allowed


def test_slides_of_a_patient_in_several_runs_are_pooled(gallery: Path, tmp_path: Path) -> None:
    for k, name in enumerate(("P1", "P2")):
        out = tmp_path / f"run{k}"
        run(gallery, out)
        for folder in (out / "slides").iterdir():
            summary = json.loads((folder / "summary.json").read_text())
            (folder / "summary.json").write_text(json.dumps({**summary, "subject_id": "one"}))
        table = [line for line in (out / "slides.csv").read_text().splitlines() if line.startswith(("slide_id", name))]
        (out / "slides.csv").write_text("\n".join(table) + "\n")
    model = str(write_toy(tmp_path))
    for order, folder in (((0, 1), "a"), ((1, 0), "b")):
        predict_slides([tmp_path / f"run{k}" for k in order], tmp_path / folder, models=[model])
    assert (tmp_path / "a" / "predictions.csv").read_bytes() == (tmp_path / "b" / "predictions.csv").read_bytes()
    *slides, patient = rows_of(tmp_path / "a" / "predictions.csv")
    assert [(r["level"], r["n_cells"]) for r in slides] == [("slide", "6"), ("slide", "6")]
    assert (patient["level"], patient["subject_id"], patient["n_cells"]) == ("patient", "one", "12")
    # Attention over all cells lies between what it is over either half.
    low, high = sorted(float(r["probability"]) for r in slides)
    assert low <= float(patient["probability"]) <= high


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"specimens": ["blood_smear"]}, ModelError, "made for blood_smear"),
        ({"classifier": {"name": "other", "sha256": "0", "classes": []}}, ModelError, "classifier other typed"),
        ({"name": "criteria"}, ConfigError, "named criteria"),
    ],
)
def test_models_that_do_not_fit_are_refused_before_anything_starts(
    changes: dict[str, Any], error: type[Exception], message: str, gallery: Path, tmp_path: Path
) -> None:
    model = write_toy(tmp_path, **changes)
    with pytest.raises(error, match=message):
        run(gallery, tmp_path / "run", model)
    assert not (tmp_path / "run").exists()
    run(gallery, tmp_path / "plain")
    with pytest.raises(error, match=message):
        predict_slides([tmp_path / "plain"], tmp_path / "out", models=[str(model)])
    assert not (tmp_path / "out").exists()


def test_two_models_of_one_name_are_refused(gallery: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    models = [write_toy(tmp_path), write_toy(tmp_path / "b")]
    with pytest.raises(ConfigError, match="two slide models are named toy"):
        run(gallery, tmp_path / "run", *models)


def test_embeddings_are_written_where_a_model_reads_them(tmp_path: Path) -> None:
    image(tmp_path / "slide.png", 1)
    model = str(write_toy(tmp_path))
    plan = plan_cohort(
        [tmp_path / "slide.png"], tmp_path / "run", overrides={"predictions.slide_models": model}, mpp=MPP
    )
    assert plan.jobs[0].config.cells.embedding
    assert plan.jobs[0].config.predictions.slide_models == (model,)
    off = {"predictions.slide_models": model, "cells.embedding": False}
    with pytest.raises(ConfigError, match=r"cells\.embedding is false"):
        plan_cohort([tmp_path / "slide.png"], tmp_path / "run", overrides=off, mpp=MPP)
    without = {"predictions.slide_models": model, "cells.classifier": None}
    with pytest.raises(ConfigError, match="reads classified cells"):
        plan_cohort([tmp_path / "slide.png"], tmp_path / "run", overrides=without, mpp=MPP)


def test_folders_that_hold_something_else_are_refused_and_earlier_answers_replaced(
    gallery: Path, tmp_path: Path
) -> None:
    model, plain = str(write_toy(tmp_path)), tmp_path / "plain"
    run(gallery, plain)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for out, message in ((plain, "is a run"), (tmp_path / "full", "something else")):
        with pytest.raises(OutputError, match=message):
            predict_slides([plain], out, models=[model])
    out = tmp_path / "out"
    predict_slides([plain], out, models=[model])
    stale = out / "slides" / "gone"
    stale.mkdir()
    (stale / "attention.parquet").write_bytes(b"old")
    first = (out / "predictions.csv").read_bytes()
    predict_slides([plain], out, models=[model])
    assert (out / "predictions.csv").read_bytes() == first
    assert not (stale / "attention.parquet").exists()


def test_a_page_of_many_subjects_stays_small(gallery: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(gallery, tmp_path / "plain")
    model, out = str(write_toy(tmp_path)), tmp_path / "out"

    def page() -> tuple[int, int, bool]:
        predict_slides([tmp_path / "plain"], out, models=[model])
        text = (out / "report.html").read_text()
        return len(text.encode()), text.count("data:image/jpeg"), "To keep this page small" in text

    size, pictures, said = page()
    assert (pictures, said) == (12, False)
    monkeypatch.setattr(report_of_answers, "MOST_BYTES", size - 1)
    smaller, fewer, said = page()
    assert smaller < size
    assert 0 < fewer < pictures
    assert said
    monkeypatch.setattr(report_of_answers, "MOST_BYTES", 1)
    assert page()[1:] == (0, True)


def test_what_cannot_be_asked_leaves_earlier_answers(gallery: Path, tmp_path: Path) -> None:
    run(gallery, tmp_path / "plain")
    model, out = str(write_toy(tmp_path)), tmp_path / "out"
    predict_slides([tmp_path / "plain"], out, models=[model])
    before = digests(out)
    table = tmp_path / "plain" / "slides" / "P1" / "cells.parquet"
    pq.write_table(pq.read_table(table).drop_columns(["embedding"]), table)
    with pytest.raises(DataError, match="has no embeddings"):
        predict_slides([tmp_path / "plain"], out, models=[model])
    assert digests(out) == before


def test_the_command_says_what_was_answered(
    gallery: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, plain = str(write_toy(tmp_path)), tmp_path / "plain"
    run(gallery, plain)
    arguments = ["wsi-pipeline", "predict", "slides", str(plain), "--model", model, "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "slides, aml by toy" in said
    assert "patients, aml by toy" in said
    (plain / "slides.csv").unlink()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "half-written" in capsys.readouterr().err


def test_runs_without_embeddings_are_refused_with_what_to_do(gallery: Path, tmp_path: Path) -> None:
    overrides = {"runtime.device": "cpu", "cells.embedding": False}
    execute(plan_gallery(gallery, tmp_path / "plain", "marrow_smear", mpp=MPP, overrides=overrides))
    with pytest.raises(DataError, match=r"run again with --set cells\.embedding=true"):
        predict_slides([tmp_path / "plain"], tmp_path / "out", models=[str(write_toy(tmp_path))])


def test_slides_answer_the_same_however_they_are_cut_and_patients_are_pooled(tmp_path: Path) -> None:
    for k, name in enumerate(("a", "b")):
        make_virtual_slide(tmp_path / f"{name}.tiff", profile="aml", size_px=(800, 600), seed=k)
    manifest = tmp_path / "slides.csv"
    manifest.write_text("slide,patient\na.tiff,one\nb.tiff,one\n")
    model = str(write_toy(tmp_path))
    for core_px in (512, 2048):
        overrides = {
            "predictions.slide_models": model, "tiling.core_px": core_px, "runtime.device": "cpu",
            "exports.report": core_px == 2048,
        }  # fmt: skip
        execute(plan_cohort([manifest], tmp_path / str(core_px), overrides=overrides))
    files = ["predictions.csv", *(f"slides/{s}/{f}" for s in "ab" for f in ("attention.parquet", "qupath.geojson.gz"))]
    for name in files:
        assert (tmp_path / "512" / name).read_bytes() == (tmp_path / "2048" / name).read_bytes(), name
    out = tmp_path / "2048"
    rows = [row for row in rows_of(out / "predictions.csv") if row["model"] == "toy"]
    assert [(r["level"], r["slide_id"], r["subject_id"]) for r in rows] == [
        ("slide", "a", "one"), ("slide", "b", "one"), ("patient", "", "one"),
    ]  # fmt: skip
    assert int(rows[2]["n_cells"]) == int(rows[0]["n_cells"]) + int(rows[1]["n_cells"])
    (patient,) = json.loads((out / "patients.json").read_text())["patients"]
    assert patient["slide_ids"] == ["a", "b"]
    assert 'href="patients/one.html"' in (out / "report.html").read_text()
    pooled = (out / "patients" / "one.html").read_text()
    assert all(f'href="../slides/{name}/report.html"' in pooled for name in ("a", "b"))
    assert "Cells behind the models" in (out / "slides" / "a" / "report.html").read_text()

    # QuPath's file of a slide carries the weight of each white cell; about a finished run it becomes the same.
    path = out / "slides" / "a" / "qupath.geojson.gz"
    assert validate_qupath(path) == []
    found = json.loads(gzip.decompress(path.read_bytes()))
    assert [answer["model"] for answer in found["answers"]] == ["toy"]
    weights = [f["properties"]["measurements"].get("Attention toy") for f in found["features"]]
    white = [w for w in weights if w is not None]
    assert 0 < len(white) < len(weights)
    assert np.mean(white) == pytest.approx(1, abs=0.2)
    plain = tmp_path / "plain"
    execute(plan_cohort([manifest], plain, overrides={"cells.embedding": True, "exports.report": False}))
    for run_folder, folder in ((plain, "answers"), (out, "again")):
        predict_slides([run_folder], tmp_path / folder, models=[model])
        for name in files[1:]:
            assert (tmp_path / folder / name).read_bytes() == (out / name).read_bytes(), name
    assert (tmp_path / "answers" / "report.html").read_text().count("data:image/jpeg") >= 10


def test_routine_counts_are_those_of_the_subjects_asked(gallery: Path, tmp_path: Path) -> None:
    model, plain, table = str(write_toy(tmp_path)), tmp_path / "plain", tmp_path / "counts.csv"
    run(gallery, plain)
    table.write_text("patient,WBC (G/L)\nP9,4\n")
    with pytest.raises(DataError, match="names none of the subjects"):
        predict_slides([plain], tmp_path / "out", models=[model], counts=table)
    assert not (tmp_path / "out").exists()
    table.write_text("patient,WBC (G/L)\nP1,4\n")
    found = predict_slides([plain], tmp_path / "out", models=[model], counts=table)
    assert [s.name for s in found.subjects] == ["P1", "P2", "P1", "P2"]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("cells", "cannot be read as a table of cells"),
        ("summary", "is not the summary of a slide"),
        ("missing", "half-written"),
        ("failed", "failed in the run"),
    ],
)
def test_a_subject_that_cannot_be_read_does_not_keep_the_others_from_their_answers(
    harm: str,
    said: str,
    gallery: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, plain, out = str(write_toy(tmp_path)), tmp_path / "plain", tmp_path / "out"
    run(gallery, plain)
    predict_slides([plain], tmp_path / "whole", models=[model])
    folder = plain / "slides" / "P1"
    if harm == "cells":
        whole = (folder / "cells.parquet").read_bytes()
        (folder / "cells.parquet").write_bytes(whole[: len(whole) // 2])
    elif harm == "summary":
        (folder / "summary.json").write_text((folder / "summary.json").read_text()[:200])
    elif harm == "missing":
        (folder / "summary.json").unlink()
    else:
        table = plain / "slides.csv"
        rows = rows_of(table)
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows({**r, "status": "failed", "reason": "bad-folder"} if r["slide_id"] == "P1" else r
                             for r in rows)  # fmt: skip
    monkeypatch.setattr(
        "sys.argv", ["wsi-pipeline", "predict", "slides", str(plain), "--model", model, "--out", str(out)]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert "subjects.csv; the others are answered" in printed.err
    assert harm == "failed" or printed.err.count("P1 has no answer") == 1
    whole_rows, rows = (rows_of(tmp_path / name / "predictions.csv") for name in ("whole", "out"))
    assert [r for r in rows if r["slide_id"] == "P2" or r["subject_id"] == "P2"] == [
        r for r in whole_rows if r["subject_id"] == "P2"
    ]
    reason = "bad-folder" if harm == "failed" else "unreadable"
    lost = [r for r in rows if r["slide_id"] == "P1"]
    assert [(r["level"], r["abstained"], r["reason"], r["class"]) for r in lost] == [("slide", "true", reason, "")]
    subjects = {(r["subject_id"], r["level"]): r for r in rows_of(out / "subjects.csv")}
    assert subjects["P2", "slide"]["status"] == subjects["P2", "patient"]["status"] == "ok"
    assert (subjects["P1", "slide"]["status"], subjects["P1", "slide"]["reason"]) == ("failed", reason)
    assert said in subjects["P1", "slide"]["message"]
    assert not (out / "slides" / "P1").exists()
    assert (out / "slides" / "P2" / "attention.parquet").is_file()
    if harm != "failed":
        assert "P1 has no answer" in (out / "report.html").read_text()
        predict_slides([plain], out, models=[model], language="fr")
        assert "P1 n’a pas de réponse" in (out / "report.html").read_text()


def test_a_patient_is_not_answered_by_the_slides_that_are_left(gallery: Path, tmp_path: Path) -> None:
    run(gallery, tmp_path / "plain")
    for name in ("P1", "P2"):
        path = tmp_path / "plain" / "slides" / name / "summary.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "subject_id": "one"}))
    table = tmp_path / "plain" / "slides" / "P1" / "cells.parquet"
    whole = table.read_bytes()
    for lost in ("half", "gone"):
        table.write_bytes(whole[: len(whole) // 2]) if lost == "half" else table.unlink()
        found = predict_slides([tmp_path / "plain"], tmp_path / lost, models=[str(write_toy(tmp_path))])
        assert [(s.name, s.level) for s in found.subjects] == [("P2", "slide")]
        assert {(own.name, own.level, own.reason) for own in found.failed} == {
            ("P1", "slide", "unreadable"), ("one", "patient", "unreadable"),
        }  # fmt: skip


def test_runs_of_which_no_slide_can_be_read_are_refused(gallery: Path, tmp_path: Path) -> None:
    run(gallery, tmp_path / "plain")
    for name in ("P1", "P2"):
        (tmp_path / "plain" / "slides" / name / "summary.json").unlink()
    with pytest.raises(DataError, match="half-written.*no slide of these runs can be read"):
        predict_slides([tmp_path / "plain"], tmp_path / "out", models=[str(write_toy(tmp_path))])
    assert not (tmp_path / "out").exists()
