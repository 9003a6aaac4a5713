"""Training of slide-level models: a planted signal is found, none is invented, and bad cohorts are refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_bags import CLASSES, SHA256, made_bag, made_training_set, two_groups
from made_runs import MadeSlide, make_run
from typer.testing import CliRunner

from wsi_pipeline.cli.main import app
from wsi_pipeline.errors import ConfigError, DataError, ModelError
from wsi_pipeline.predictions.assessment import Plan
from wsi_pipeline.predictions.bags import CellBag
from wsi_pipeline.predictions.slide_models import answer, load_slide_model
from wsi_pipeline.predictions.slide_models.member import Member
from wsi_pipeline.predictions.tasks import load_task
from wsi_pipeline.training.slides import fit as slides_fit
from wsi_pipeline.training.slides.data import CohortRequest, read_request
from wsi_pipeline.training.slides.evaluation import evaluate_slides
from wsi_pipeline.training.slides.fit import family_weights, fit_slide_model
from wsi_pipeline.training.slides.members import RECIPES, TrainingSet, fit_members, members_of
from wsi_pipeline.training.slides.study import cell_level, study_slides
from wsi_pipeline.training.slides.train import SlidesTraining, train_slides

CARD = {
    "name": "m", "sha256": "0", "specimens": ["blood_smear"], "reads_embedding": False, "simulated": False,
    "classifier": {"name": "c", "sha256": SHA256, "classes": list(CLASSES)},
}  # fmt: skip
_QUICK = ("composition", "immature", "beyond-class")
_SMALL = Plan(folds=2, repeats=1, null_repeats=0, fractions=(), replicates=50)
_PLAN = Plan(folds=4, repeats=1, null_repeats=0, fractions=(), replicates=300)


def _cohort(
    folder: Path,
    n: int = 20,
    *,
    cohorts: Sequence[str] = ("x",),
    summary: dict[str, object] | None = None,
    cells: int = 40,
) -> tuple[Path, Path]:
    """Write a run of galleries' patients and its table; every other one has APL and more promyelocytes."""
    rng = np.random.default_rng(5)
    slides, rows = [], []
    for i in range(n):
        apl = i % 2 == 0
        k = int(np.clip(round(cells * rng.normal(0.45 if apl else 0.15, 0.08)), 1, cells - 2))
        mix = {"promyelocyte": k, "blast": (cells - k) // 2, "lymphocyte": cells - k - (cells - k) // 2}
        slides.append(MadeSlide(slide_id=f"P{i:02d}", subject=f"P{i:02d}", mix=mix, seed=i, summary=summary or {}))
        rows.append([f"P{i:02d}", "APL" if apl else "AML", cohorts[i // 2 % len(cohorts)]])
    table = folder / "labels.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["patient", "label", "cohort"], *rows])
    return make_run(folder / "run", slides), table


def _request(run: Path, table: Path, **changes: object) -> SlidesTraining:
    cohort = CohortRequest(runs=(run,), manifest=table, task=load_task("apl"))
    return SlidesTraining(cohort=cohort, **{"kind": "counts", "name": "made", "plan": _PLAN, **changes})  # type: ignore[arg-type]


def test_a_planted_look_is_found_and_shuffled_labels_are_not() -> None:
    bags, labels = two_groups(40, shift=1.0)
    data = made_training_set(bags, labels)
    found = study_slides(data, _QUICK, "quick", _PLAN, centres=None)
    auc = found.assessments[0].per_class[0].auc
    assert auc.lower is not None
    assert auc.lower > 0.6
    shuffled = made_training_set(bags, [str(v) for v in np.random.default_rng(0).permutation(labels)])
    nothing = study_slides(shuffled, _QUICK, "quick", _PLAN, centres=None).assessments[0].per_class[0].auc
    assert nothing.lower is not None
    assert nothing.upper is not None
    assert nothing.lower < 0.5 < nothing.upper


def test_networks_find_a_look_that_the_classes_do_not_show() -> None:
    bags, labels = two_groups(32, shift=2.5)
    data = made_training_set(bags, labels)
    fitted = fit_slide_model(data, RECIPES["mil"], seed=0, folds=4)
    right = fitted.held_out.argmax(axis=1) == data.labels
    assert right.mean() > 0.8
    by_name = {own.of: own for own in cell_level(fitted, data, seed=0)}
    immature, every = (by_name[of].auc["apl"].value for of in ("immature cells", "all cells"))
    assert immature is not None
    assert every is not None
    assert immature > max(every, 0.65)


def test_weights_of_families() -> None:
    found = family_weights({"composition": 0.16, "immature": 0.36, "contrast": 0.12, "attention": 0.0})
    assert sum(found.values()) == pytest.approx(1)
    assert found["composition"] == pytest.approx(0.4)
    assert found["immature"] == pytest.approx(3 * found["contrast"])
    assert found["attention"] == 0
    assert family_weights({"composition": 0.0, "immature": 0.0}) == {"composition": 0.5, "immature": 0.5}


def test_the_order_of_subjects_of_a_fold_does_not_reach_the_labels() -> None:
    bags, labels = two_groups(24)
    data = made_training_set(bags, labels)
    found = study_slides(data, ("composition",), "quick", _PLAN, centres=None)
    assert not [f for f in found.findings if f.kind in ("label-in-features", "feature-alone")]


def test_a_training_writes_model_cards_and_figures(tmp_path: Path) -> None:
    run, table = _cohort(tmp_path, 40, cohorts=("first", "second"))
    out = tmp_path / "out"
    lines: list[str] = []
    found = train_slides(
        _request(
            run,
            table,
            train_cohort="first",
            plan=_SMALL,
        ),
        out,
        report=lines.append,
    )
    model = load_slide_model(found.path)
    assert model.task.name == "apl"
    assert model.card["simulated"] is False
    assert model.card["trained_on"] == "20 patients (apl 10, aml_other 10), 1 cohort(s): labels.csv"
    assert "how it does in another laboratory is not known" in " ".join(model.card["limits"])
    text = found.path.with_name("made.slides.md").read_text()
    assert "composition: share of promyelocyte" in text
    assert "answered." in text
    assert " <= " in text
    assert found.external is not None
    assert found.external.study.n == 20
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["external"]["n"] == 20
    names = {a["candidate"] for a in metrics["external"]["study"]["assessments"]}
    assert {"made", "class shares, logistic", "percent promyelocytes", "criteria", "class frequencies"} == names
    rows = list(csv.DictReader((out / "held_out.csv").open()))
    assert [row["subject_id"] for row in rows] == [f"P{i:02d}" for i in range(40) if i // 2 % 2 == 0]
    assert (out / "evaluation.html").is_file()
    assert (out / "external.html").is_file()


def test_a_training_on_simulated_slides_says_so(tmp_path: Path) -> None:
    run, table = _cohort(tmp_path, 12, summary={"simulated": True})
    path = train_slides(
        _request(run, table, plan=_SMALL),
        tmp_path / "out",
    ).path
    model = load_slide_model(path)
    assert model.card["simulated"] is True
    assert model.card["trained_on"].startswith("simulated: ")

    def request(_: object) -> CohortRequest:
        return CohortRequest(runs=(run,), manifest=table, task=load_task("apl"))

    with pytest.raises(ModelError, match="--allow-simulated"):
        evaluate_slides(str(path), request, tmp_path / "e", _PLAN, allow_simulated=False)
    found = evaluate_slides(str(path), request, tmp_path / "e", _PLAN, allow_simulated=True, keep_known=True)
    assert json.loads((tmp_path / "e" / "metrics.json").read_text())["n"] == found.study.n == 12
    from wsi_pipeline.predictions.bags import read_bags

    bag = read_bags([run], embedding=False)[0]
    assert answer(model, bag).reason == "no-real-training-data"


def test_members_that_a_fold_lacks_leave_no_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    bags, labels = two_groups(40)
    known = [i for i, label in enumerate(labels) if label == "aml_other" or i < 12]
    counts = np.array([[10.0 + i % 2 if i in known else np.nan] for i in range(40)])
    data = made_training_set(bags, labels, counts=counts)
    for seed in range(4):
        fitted = fit_slide_model(data, ("composition", "routine counts"), seed=seed)
        assert np.isfinite(fitted.held_out).all()
    first = iter([True])

    def one_fold_less(names: tuple[str, ...], part: TrainingSet, *, seed: int) -> list[Member]:
        return fit_members(tuple(n for n in names if n != "immature" or not next(first, False)), part, seed=seed)

    monkeypatch.setattr(slides_fit, "fit_members", one_fold_less)
    fitted = fit_slide_model(data, ("composition", "immature"), seed=0)
    assert fitted.left_out == ("immature",)
    assert set(fitted.model.scalings) == {m.name for m in fitted.model.members} == {"composition"}
    assert np.isfinite(fitted.held_out).all()


def test_subjects_without_labels_are_calibrated_as_they_are_answered() -> None:
    """Labels tell the classes apart here, and the classifier does not."""

    def drawn(n: int, seed: int) -> tuple[list[CellBag], list[str]]:
        bags, labels = [], []
        for i in range(n):
            apl = i % 2 == 0
            bag = made_bag(f"P{seed}-{i}", seed=seed + i, promyelocytes=0.9 if apl else 0.05, labelled=True)
            blind = np.random.default_rng(seed + i).dirichlet(np.full(len(CLASSES), 0.5), len(bag))
            bags.append(replace(bag, probabilities=blind.astype(np.float32)))
            labels.append("apl" if apl else "aml_other")
        return bags, labels

    bags, labels = drawn(40, 0)
    model = fit_slide_model(made_training_set(bags, labels), ("composition", "labels"), seed=0, card=CARD).model
    later, truth = drawn(60, 1000)
    bare = [replace(bag, given=np.full(len(bag), -1), given_labels=None) for bag in later]
    right = np.array([label == "aml_other" for label in truth], np.int64)
    with_labels, without = (model.probabilities(own)[np.arange(60), right] for own in (later, bare))
    assert with_labels.min() > 0.8
    assert -np.log(without).mean() < np.log(2) + 0.03, "no worse than the frequencies of the classes"
    sets = model.combinations[""].sets
    covered = np.mean([c in sets.classes_of(p) for c, p in zip(right, model.probabilities(bare), strict=True)])
    assert covered >= 0.85


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("APL", *["AML"] * 9), "could not be evaluated: a class has one patient only"),
        (("APL",) * 10, "one class only"),
    ],
)
def test_another_cohort_that_cannot_be_measured_loses_nothing(tmp_path: Path, labels: Sequence[str], said: str) -> None:
    run, table = _cohort(tmp_path, 30, cohorts=("x", "x", "y"))
    with table.open(newline="") as file:
        header, *rows = csv.reader(file)
    others = iter(labels)
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([header, *([*r[:1], next(others), *r[2:]] if r[2] == "y" else r for r in rows)])
    out, lines = tmp_path / "out", []  # type: ignore[var-annotated]
    (out).mkdir()
    (out / "external.html").write_text("of an earlier training")
    found = train_slides(_request(run, table, train_cohort="x", plan=_SMALL), out, report=lines.append)
    assert found.external is None
    assert any(said in line for line in lines)
    assert (out / "evaluation.html").is_file()
    assert (out / "metrics.json").is_file()
    assert not (out / "external.html").exists()


def test_other_cohorts_may_have_classes_that_the_model_does_not_know(tmp_path: Path) -> None:
    run, table = _cohort(tmp_path, 30, cohorts=("x", "x", "y"))
    with table.open(newline="") as file:
        header, *rows = csv.reader(file)
    for i, row in enumerate(r for r in rows if r[2] == "y"):
        row[1] = ("normal", "M3", "AML", "MDS")[i % 4]
    for row in rows:
        row[1] = {"APL": "normal"}.get(row[1], row[1])
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    lines: list[str] = []
    request = _request(run, table, train_cohort="x", plan=_SMALL)
    request = replace(request, cohort=replace(request.cohort, task=load_task("smear_diagnosis")))
    found = train_slides(request, tmp_path / "out", report=lines.append)
    assert any("2 subjects are of classes that the model does not know: mds_like" in line for line in lines)
    assert found.external is not None
    assert found.external.study.n_by_class == (3, 5), "APL counts as AML where the model has no class of its own"


def test_cells_of_the_training_in_another_cohort_are_told(tmp_path: Path) -> None:
    run, table = _cohort(tmp_path, 30, cohorts=("x", "x", "y"))
    # P04 is of the other cohort: the first patient once more, under another name.
    twin, first = (run / "slides" / name / "cells.parquet" for name in ("P04", "P00"))
    twin.write_bytes(first.read_bytes())
    lines: list[str] = []
    found = train_slides(_request(run, table, train_cohort="x", plan=_SMALL), tmp_path / "out", report=lines.append)
    assert found.external is not None
    (finding,) = found.external.study.findings
    assert "P00 and P04 (40)" in finding.message
    assert "trained on one and is tested on the other" in finding.message
    assert any(line.startswith("note: other cohorts: 1 pairs of patients share 40 identical") for line in lines)
    assert not found.study.findings


def test_cards_say_what_the_model_cannot_notice(tmp_path: Path) -> None:
    run, table = _cohort(tmp_path, 12)
    train_slides(_request(run, table, plan=_SMALL), tmp_path / "out")
    said = json.loads((tmp_path / "out" / "made.slides.json").read_text())["limits"]
    assert any("Of apl, aml_other there were too few subjects" in line for line in said)
    assert any("does not notice an unusual mix of cells or look of the cells" in line for line in said)
    assert not any("guaranteed is" in line for line in said)


def test_more_folds_than_patients_are_refused_before_anything_is_fitted(tmp_path: Path) -> None:
    run, table = _cohort(tmp_path, 12)
    lines: list[str] = []
    with pytest.raises(DataError, match="apl 6, aml_other 6; 10 of each class are needed for a study of 10 folds"):
        train_slides(_request(run, table, plan=replace(_PLAN, folds=10)), tmp_path / "out", report=lines.append)
    assert not any("fitting" in line for line in lines)


def test_slides_of_a_run_without_patients_are_pooled_by_the_table(tmp_path: Path) -> None:
    slides = [MadeSlide(slide_id=f"s{i}", mix={"blast": 20, "lymphocyte": 20}, seed=i) for i in range(8)]
    table = tmp_path / "labels.csv"
    with table.open("w", newline="") as file:
        rows = [[f"s{i}", f"P{i // 2}", "APL" if i < 4 else "AML"] for i in range(8)]
        csv.writer(file).writerows([["slide_id", "patient", "label"], *rows])
    request = CohortRequest(runs=(make_run(tmp_path / "run", slides),), manifest=table, task=load_task("apl"))
    cohort, said = read_request(request, embedding=False)
    assert said == []
    assert [(bag.subject_id, bag.slide_ids, len(bag)) for bag in cohort.bags] == [
        (f"P{i}", (f"s{2 * i}", f"s{2 * i + 1}"), 80) for i in range(4)
    ]
    assert cohort.patients == ("P0", "P1", "P2", "P3")
    single, _ = read_request(replace(request, level="slide"), embedding=False)
    assert [bag.subject_id for bag in single.bags] == [f"s{i}" for i in range(8)]
    assert len(set(single.patients)) == 4, "slides of one patient are never parted"


def test_too_few_patients_and_unknown_words_are_refused(tmp_path: Path) -> None:
    run, table = _cohort(tmp_path, 8)
    with pytest.raises(DataError, match="apl 4, aml_other 4; 5 of each class"):
        train_slides(_request(run, table), tmp_path / "out")
    with pytest.raises(ConfigError, match="no plain name|not a path"):
        _request(run, table, name="../x")
    with pytest.raises(ConfigError, match="auto, counts, mil, fusion"):
        members_of("forest")
    with pytest.raises(ConfigError, match="the cohorts of the table are x"):
        train_slides(_request(run, table, train_cohort="y"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_commands(tmp_path: Path) -> None:
    run, table = _cohort(tmp_path, 20)
    out = tmp_path / "out"
    train = ["train", "slides", "--manifest", str(table), "--task", "apl", "--model", "counts", "--cells", str(run)]
    said = CliRunner().invoke(app, [*train, "--out", str(out), "--folds", "2"])
    assert said.exit_code == 0, said.output
    assert "percent promyelocytes" in said.output
    file = out / "apl-counts.slides.safetensors"
    evaluate = ["evaluate", "slides", "--model", str(file), "--manifest", str(table), "--cells", str(run)]
    said = CliRunner().invoke(app, [*evaluate, "--out", str(tmp_path / "e")])
    assert isinstance(said.exception, DataError)
    assert "the model was trained on all 20 subjects (patient)" in str(said.exception)
    said = CliRunner().invoke(app, [*evaluate, "--out", str(tmp_path / "e"), "--keep-known"])
    assert said.exit_code == 0, said.output
    assert "measured all the same, so the figures are too good" in said.output
    assert "class in the set" in said.output
    assert json.loads((tmp_path / "e" / "metrics.json").read_text())["model"] == "apl-counts"
    for wrong in (["--level", "cell"], ["--task", "lymphoma"]):
        bad = CliRunner().invoke(app, [*train, *wrong, "--out", str(out)])
        assert isinstance(bad.exception, ConfigError)


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    run, table = _cohort(tmp_path, 8)
    table.write_text("patient,label\n" + "".join(f"P{i:02d},APL\n" for i in range(8)))
    with pytest.raises(DataError, match="two or more of its classes"):
        train_slides(_request(run, table), tmp_path / "out")


def test_subjects_of_the_training_are_set_apart(tmp_path: Path) -> None:
    run, table = _cohort(tmp_path, 30, cohorts=("x", "x", "y"))
    rows = list(csv.DictReader(table.open(newline="")))
    parts = {}
    for name in ("x", "y"):
        parts[name] = tmp_path / f"{name}.csv"
        own = [[r["patient"], r["label"]] for r in rows if r["cohort"] == name]
        with parts[name].open("w", newline="") as file:
            csv.writer(file).writerows([["patient", "label"], *own])
    path = train_slides(_request(run, parts["x"], plan=_SMALL), tmp_path / "out").path
    assert b"P00" not in path.read_bytes()
    # P04, of the other cohort, is P00 once more; two of the training's stand in the table by name.
    (run / "slides" / "P04" / "cells.parquet").write_bytes((run / "slides" / "P00" / "cells.parquet").read_bytes())
    with parts["y"].open("a") as file:
        file.write("P02,APL\nP03,AML\n")
    lines: list[str] = []

    def request(_: object) -> CohortRequest:
        return CohortRequest(runs=(run,), manifest=parts["y"], task=load_task("apl"))

    found = evaluate_slides(str(path), request, tmp_path / "e", _PLAN, allow_simulated=False, report=lines.append)
    assert any(
        "3 of 12 subjects are set apart: the model was trained on them (2 by the name of the patient, 1 by identical "
        "cells): P02, P03, P04" in line
        for line in lines
    )
    assert found.study.n == 9
    said = json.loads((tmp_path / "e" / "metrics.json").read_text())["trained_on"]
    assert said == {"subjects": {"identical cells": 1, "patient": 2}, "set_apart": True}
    assert "3 of 12 subjects are set apart" in (tmp_path / "e" / "evaluation.html").read_text()


def test_a_cohort_without_white_cells_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [MadeSlide(slide_id=f"P{i}", subject=f"P{i}", mix={}, red=5) for i in range(4)])
    table = tmp_path / "labels.csv"
    table.write_text("patient,label\nP0,APL\nP1,APL\nP2,AML\nP3,AML\n")
    with pytest.raises(DataError, match=r"labels\.csv: none of its 4 labelled subjects has a nucleated cell"):
        train_slides(_request(run, table), tmp_path / "out")


def test_strange_class_folders_are_told(tmp_path: Path) -> None:
    run, table = _cohort(tmp_path, 12)
    for folder in (run / "slides").iterdir():
        cells = pq.read_table(folder / "cells.parquet")
        names = pa.array(["Promyelo hypergranulaire"] * 30 + [None] * (len(cells) - 30), pa.string())
        pq.write_table(cells.append_column("label_given", names), folder / "cells.parquet")
    lines: list[str] = []
    train_slides(_request(run, table, plan=_SMALL), tmp_path / "out", report=lines.append)
    assert any("1 class folders are in no taxonomy" in line and "promyelo hypergranulaire" in line for line in lines)


def test_class_folders_of_a_gallery_have_a_say_in_fusion(tmp_path: Path) -> None:
    """The folders tell the groups apart, and the classifier does not."""
    slides, rows = [], []
    for i in range(24):
        k = 24 if i % 2 == 0 else 6
        labels = [("pbc-blast", "promyelocyte")] * k + [("deepapl", "blast")] * (30 - k) + [None] * 10
        slides.append(
            MadeSlide(
                slide_id=f"P{i:02d}", subject=f"P{i:02d}", mix={"blast": 20, "lymphocyte": 20}, seed=i, gallery=True,
                labels=labels,
            )
        )  # fmt: skip
        rows.append([f"P{i:02d}", "APL" if i % 2 == 0 else "AML"])
    table = tmp_path / "labels.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["patient", "label"], *rows])
    run = make_run(tmp_path / "run", slides)
    found = train_slides(_request(run, table, kind="fusion", plan=_SMALL), tmp_path / "out")
    weights = json.loads(found.path.with_suffix(".json").read_text())["member_weights"]
    assert weights["labels"]["labels"] + weights["labels"]["composition"] > 0.5
    assert "labels" not in weights["without labels or counts"]
    auc = found.study.assessments[0].per_class[0].auc
    assert auc.value is not None
    assert auc.value > 0.95
