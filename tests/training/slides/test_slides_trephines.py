"""Slide models of trephines: trained by the same command, on megakaryocytes, arrangement and counts."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_runs import MadeSlide, make_run
from made_trephines import MadeTrephine, make_trephines, two_groups

from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.finished_runs.predict import predict_slides
from wsi_pipeline.predictions.assessment import Plan
from wsi_pipeline.predictions.bags import read_bags, read_runs
from wsi_pipeline.predictions.slide_features import feature_table
from wsi_pipeline.predictions.slide_models import answer, load_slide_model
from wsi_pipeline.predictions.slide_models.storage import map_file
from wsi_pipeline.predictions.tasks import load_task
from wsi_pipeline.predictions.trephines.cohort_map import load_cohort_map
from wsi_pipeline.predictions.trephines.phenotypes import load_phenotypes
from wsi_pipeline.training.phenotypes.train import PhenotypeTraining, train_phenotypes
from wsi_pipeline.training.slides.data import CohortRequest
from wsi_pipeline.training.slides.evaluation import added_value
from wsi_pipeline.training.slides.study import SECTION_ALONE
from wsi_pipeline.training.slides.train import SlidesTraining, train_slides

PLAN = Plan(folds=3, repeats=1, null_repeats=0, fractions=(), replicates=100)


def labels(path: Path, slides: list[MadeTrephine], *, counts: bool) -> Path:
    rng = np.random.default_rng(1)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["patient", "label", *(["Platelets_G_L", "Hb_g_dL"] if counts else [])])
        for slide in slides:
            own = [f"{rng.normal(600 if slide.label == 'ET' else 300, 120):.0f}", f"{rng.normal(14, 1):.1f}"]
            writer.writerow([slide.subject, slide.label, *(own if counts else [])])
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A cohort of 18 trephines with phenotypes, and a fusion model of it."""
    folder = tmp_path_factory.mktemp("trephines")
    slides = two_groups(18)
    first = make_trephines(folder / "first", slides[:6])
    model = folder / "made.phenotypes.json"
    train_phenotypes(PhenotypeTraining(runs=(first,), k=3), model)
    run = make_trephines(folder / "run", slides, model=load_phenotypes(model))
    table = labels(folder / "labels.csv", slides, counts=True)
    request = SlidesTraining(
        cohort=CohortRequest(runs=(run,), manifest=table, task=load_task("mpn")), kind="fusion", name="made", plan=PLAN
    )
    found = train_slides(request, folder / "fusion")
    (folder / "added.txt").write_text(added_value(found.study))
    return {
        "added": folder / "added.txt",
        "run": run,
        "table": table,
        "model": folder / "fusion/made.slides.safetensors",
        "phenotypes": model,
    }


def test_the_study_tests_what_counts_and_megakaryocytes_add_to_each_other(trained: dict[str, Path]) -> None:
    study = json.loads((trained["model"].parent / "metrics.json").read_text())["study"]
    names = [own["candidate"] for own in study["assessments"]]
    assert names[:4] == ["fusion", SECTION_ALONE, "routine counts, logistic", "megakaryocytes per mm2"]
    pairs = {frozenset((own["first"], own["second"])) for own in study["comparisons"]}
    assert {"fusion", "routine counts, logistic"} in pairs
    assert {"fusion", SECTION_ALONE} in pairs
    added = trained["added"].read_text()
    assert "less routine counts, logistic" in added
    assert f"less {SECTION_ALONE}" in added
    auc = {own["candidate"]: own["per_class"][0]["auc"]["value"] for own in study["assessments"]}
    assert auc[SECTION_ALONE] > 0.8


def test_a_model_answers_with_and_without_counts(trained: dict[str, Path]) -> None:
    model = load_slide_model(str(trained["model"]))
    bags = read_bags([trained["run"]], level="slide", embedding=False)
    bag = next(b for b in bags if b.subject_id == "S000")
    alone = answer(model, bag)
    both = answer(model, bag, counts={"PLT": 100.0, "Hb": 14.0})
    assert alone.n_cells == len(bag)
    assert sum(alone.probabilities.values()) == pytest.approx(1)
    assert alone.probabilities != both.probabilities
    assert model.card["classifier"]["sha256"] == load_phenotypes(trained["phenotypes"]).sha256


def test_few_megakaryocytes_get_no_answer(trained: dict[str, Path], tmp_path: Path) -> None:
    run = make_trephines(
        tmp_path / "run", [MadeTrephine(slide_id="few", mix=(12, 2, 0))], model=load_phenotypes(trained["phenotypes"])
    )
    (bag,) = read_bags([run], level="slide", embedding=False)
    found = answer(load_slide_model(str(trained["model"])), bag)
    assert found.abstained
    assert found.reason == "too-few-cells"


def test_features_have_the_cells_behind_them(trained: dict[str, Path]) -> None:
    bags = read_bags([trained["run"]], level="slide", embedding=False)
    table = feature_table(bags)
    values = dict(zip(table.names, table.values[0], strict=True))
    n = dict(zip(table.names, table.n[0], strict=True))
    shares = [v for name, v in values.items() if name.startswith("phenotype.")]
    assert len(shares) == 3
    assert sum(shares) == pytest.approx(1)
    assert n["megakaryocyte.diameter_um.q50"] == len(bags[0])
    assert n["cellularity.percent"] == 8
    assert values["mekanet.Num_Megakaryocytes"] == len(bags[0])
    assert np.isfinite(values["arrangement.clark_evans"])


def test_phenotypes_told_anew_are_those_of_a_run_with_the_model(trained: dict[str, Path], tmp_path: Path) -> None:
    plain = make_trephines(tmp_path / "run", two_groups(18))
    model = load_phenotypes(trained["phenotypes"])
    anew, _ = read_runs([plain], embedding=False, phenotypes=model)
    told, _ = read_runs([trained["run"]], embedding=False)
    assert feature_table(anew).names == feature_table(told).names
    assert np.array_equal(feature_table(anew).values, feature_table(told).values, equal_nan=True)
    assert {bag.classifier_sha256 for bag in anew} == {model.sha256}
    with pytest.raises(ConfigError, match="task aml is of smears"):
        CohortRequest(runs=(plain,), manifest=trained["table"], task=load_task("aml"), phenotypes=trained["phenotypes"])


def test_slides_of_a_patient_are_pooled_by_their_cells(tmp_path: Path) -> None:
    two = [
        MadeTrephine(slide_id="a", subject="P", mix=(30, 0, 0), seed=1),
        MadeTrephine(slide_id="b", subject="P", mix=(0, 60, 0), seed=2),
    ]
    run = make_trephines(tmp_path / "run", two)
    (bag,) = read_bags([run], embedding=False)
    assert len(bag) == 90
    assert bag.sample["arrangement.per_mm2"][0] == pytest.approx(90 / 4.8)
    each = [json.loads((run / f"slides/{s}/summary.json").read_text())["trephine"] for s in "ab"]
    ratio = [e["arrangement"]["clark_evans"]["ratio"] for e in each]
    assert bag.sample["arrangement.clark_evans"] == (pytest.approx((30 * ratio[0] + 60 * ratio[1]) / 90), 90)


def test_the_order_of_rows_changes_no_feature(trained: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(trained["run"], run)
    path = run / "slides/S001/megakaryocytes.csv"
    head, *rows = path.read_text().splitlines(keepends=True)
    path.write_text(head + "".join(rows[::-1]))
    a, b = (feature_table(read_bags([folder], embedding=False)) for folder in (trained["run"], run))
    assert np.array_equal(a.values, b.values, equal_nan=True)


def test_the_map_lies_beside_the_model_and_has_every_sample(trained: dict[str, Path]) -> None:
    found = load_cohort_map(map_file(trained["model"]))
    assert found is not None
    assert len(found.document.samples) == 18
    assert not [name for name in found.document.features if name.startswith("mekanet")]


def test_predict_slides_answers_about_trephines(trained: dict[str, Path], tmp_path: Path) -> None:
    found = predict_slides([trained["run"]], tmp_path / "answers", models=[str(trained["model"])])
    answers = [subject.answers[0] for subject in found.subjects if subject.level == "slide"]
    assert len(answers) == 18
    assert {a["task"] for a in answers} == {"mpn"}


def test_smears_and_trephines_do_not_mix(tmp_path: Path) -> None:
    slides = two_groups(4)
    run = make_trephines(tmp_path / "run", slides)
    smears = make_run(tmp_path / "smears", [MadeSlide(slide_id="blood", mix={"blast": 5})])
    table = labels(tmp_path / "labels.csv", slides, counts=False)

    def request(task: str, *runs: Path, kind: str = "counts") -> Callable[[], object]:
        cohort = CohortRequest(runs=runs, manifest=table, task=load_task(task))
        return lambda: train_slides(SlidesTraining(cohort=cohort, kind=kind, name="m", plan=PLAN), tmp_path / "out")

    with pytest.raises(DataError, match="blood of these runs are smears"):
        request("mpn", run, smears)()
    with pytest.raises(DataError, match=r"no slide with cells to read: S000 \(section, trephine\)"):
        request("aml", run)()
    with pytest.raises(DataError, match="5 of each class"):
        request("mpn", run)()
    with pytest.raises(ConfigError, match="models of trephines are auto, counts, fusion"):
        request("mpn", run, kind="mil")()


def test_tables_that_do_not_fit_the_summary_are_refused(tmp_path: Path) -> None:
    run = make_trephines(tmp_path / "run", [MadeTrephine(slide_id="a")])
    path = run / "slides/a/megakaryocytes.csv"
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="39 rows"):
        read_bags([run], embedding=False)
    path.write_text(whole.replace("area_um2", "area", 1))
    with pytest.raises(DataError, match="lacks the columns area_um2"):
        read_bags([run], embedding=False)
    path.unlink()
    with pytest.raises(DataError, match="does not exist"):
        read_bags([run], embedding=False)
