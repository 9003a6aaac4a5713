"""Train a slide-level model on finished runs and a table of labels, with the study of its recipe and its card."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsi_pipeline.atomic import write_json, write_text, writing
from wsi_pipeline.csv_rows import csv_text
from wsi_pipeline.errors import ConfigError, DataError, some
from wsi_pipeline.exports.report.assessment import write_assessment
from wsi_pipeline.predictions.assessment import Plan, Study
from wsi_pipeline.predictions.assessment.document import document
from wsi_pipeline.predictions.bags import Cohort, cell_leakage
from wsi_pipeline.predictions.bags.cells import FOLDER
from wsi_pipeline.predictions.plain_csv import safe_cell
from wsi_pipeline.predictions.slide_models.ensemble import SlideEnsemble
from wsi_pipeline.predictions.slide_models.known import Known
from wsi_pipeline.predictions.slide_models.storage import load_slide_model, map_file, model_path, save_slide_model
from wsi_pipeline.predictions.slide_models.subject import subjects_of
from wsi_pipeline.predictions.trephines.cohort_map import MapMethod, check_map, fit_cohort_map
from wsi_pipeline.training.cards import write_card
from wsi_pipeline.training.slides.card import slide_card
from wsi_pipeline.training.slides.data import CohortRequest, maps_of, read_request, training_set
from wsi_pipeline.training.slides.evaluation import Evaluation, class_within, evaluate_model
from wsi_pipeline.training.slides.fit import FittedModel, fit_slide_model
from wsi_pipeline.training.slides.members import TrainingSet, is_of_sections, members_of, reads_embedding
from wsi_pipeline.training.slides.study import CellLevel, cell_level, plain_answers, study_slides
from wsi_pipeline.training.slides.trees import feature_values

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")

MAP_FAMILIES = ("megakaryocyte", "phenotype", "arrangement", "cellularity")
"""Families of features that a cohort map is drawn of; MekaNet's depend on the size of the slide."""
LEAST_PATIENTS = 5
"""Patients of each class that a training needs, one for each fold."""


@dataclass(frozen=True, kw_only=True)
class SlidesTraining:
    """What to train, on whom, and what the card says of it.

    Parameters
    ----------
    cohort
        The subjects.
    kind
        ``auto``, ``fusion``, ``mil`` or ``counts``.
    encoder
        ``tune`` adds the cell network tuned to the labels of subjects, which reads pixels; ``frozen`` does not.
    classifier
        The classifier of the runs, for ``tune``; None finds a shipped one.
    train_cohort
        Train on this cohort alone, and evaluate on the others; None trains on all.
    plan
        Of the study.
    cohort_map
        How the map of a cohort of trephines is laid out.

    Raises
    ------
    ConfigError
        The name is no plain name, or the kind is none.
    """

    cohort: CohortRequest
    kind: str
    name: str
    plan: Plan
    encoder: str = "frozen"
    classifier: str | None = None
    train_cohort: str | None = None
    cohort_map: MapMethod = "pca"
    licence: str = "not stated"
    title: str | None = None
    attribution: str = "not stated"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"--name {self.name!r}: letters, digits, '-' and '_' are needed, not a path")
        members_of(self.kind, self.encoder, sections=is_of_sections(self.cohort.task))


@dataclass(frozen=True, kw_only=True)
class TrainedSlides:
    """What a training found: the file of the model, the study, image-level figures, and those of other cohorts."""

    path: Path
    study: Study
    cells: tuple[CellLevel, ...]
    external: Evaluation | None


def train_slides(
    request: SlidesTraining, out: Path, *, report: Callable[[str], None] = lambda _: None
) -> TrainedSlides:
    """Train, study, and write ``NAME.slides.safetensors``, its cards, ``evaluation.html``, ``held_out.csv`` and more.

    Raises
    ------
    DataError
        The runs or the table cannot be used, or a class has too few patients.
    OutputError
        ``out`` cannot be written.
    """
    sections = is_of_sections(request.cohort.task)
    embedding = reads_embedding(request.kind, sections=sections)
    cohort, said = read_request(request.cohort, embedding=embedding)
    for line in said:
        report(f"note: {line}")
    inside, outside = _parted(cohort, request.train_cohort)
    data = training_set(inside, request.cohort.task)
    least = max(LEAST_PATIENTS, request.plan.folds)
    few = [f"{code} {n}" for code, n in zip(data.task.codes, data.patients_of_classes(), strict=True) if n < least]
    if few:
        raise DataError(
            f"{request.cohort.manifest}: too few patients with cells to train on: {', '.join(few)}; {least} of each "
            f"class are needed for a study of {request.plan.folds} folds"
        )
    if sections:
        check_map(request.cohort_map, len(data))
    findings = cell_leakage(inside.bags, inside.patients)
    for finding in findings:
        report(f"note: {finding.message}")
    if unknown := [n.removeprefix(f"{FOLDER}/") for n in data.label_names if n.startswith(f"{FOLDER}/")]:
        report(
            f"note: {len(unknown)} class folders are in no taxonomy and count as labels by their names: "
            f"{some(unknown)}; see to it that they name cells, not diagnoses or batches"
        )
    names = members_of(request.kind, request.encoder, sections=sections)
    counted = ", ".join(
        f"{c} {n}" for c, n in zip(data.task.codes, np.bincount(data.labels, minlength=data.n_classes), strict=True)
    )
    cells = sum(len(s.bag) for s in data.subjects)
    report(f"{len(data)} subjects ({counted}), {cells} cells; fitting {', '.join(names)}")
    if request.encoder == "tune":
        data = replace(data, maps=maps_of(data, request.classifier, report))
    fitted = fit_slide_model(data, names, seed=request.plan.seed)
    if fitted.left_out:
        report(f"note: left out, since some folds lack what they learn from: {', '.join(fitted.left_out)}")
    plan = request.plan
    report(f"study: {plan.repeats} x {plan.folds} folds by patient, everything fitted anew inside each")
    study = study_slides(data, names, request.kind, plan, centres=inside.centres, findings=findings)
    alone = cell_level(fitted, data, seed=plan.seed)
    path = model_path(out, request.name)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        save_slide_model(replace(fitted.model, known=Known.of(inside.bags, inside.patients)), path)
        write_card(slide_card(request, inside, data, fitted, study, alone), path)
        if sections:
            _write_map(path, data, request)
        write_assessment(
            study,
            out / "evaluation.html",
            title=f"{request.name}: {data.task.description}",
            notes=_notes(request, fitted.model),
        )
        write_text(out / "held_out.csv", _held_out(inside, data, fitted))
        external = _external(path, inside, outside, data, request, out, report)
        write_json(out / "metrics.json", _metrics(study, alone, external))
    return TrainedSlides(path=path, study=study, cells=alone, external=external)


def _write_map(path: Path, data: TrainingSet, request: SlidesTraining) -> None:
    """Write the map of a cohort of trephines beside its model, or remove that of an earlier one."""
    card = load_slide_model(path).card
    features = [i for i, f in enumerate(data.vocabulary.features) if f.family in MAP_FAMILIES]
    found = fit_cohort_map(
        [data.vocabulary.names[i] for i in features],
        feature_values(data.vocabulary, data.subjects)[:, features],
        [data.task.codes[i] for i in data.labels.tolist()],
        classes=[(own.code, own.name_en) for own in data.task.classes],
        model=str(card["name"]),
        simulated=bool(card["simulated"]),
        trained_on=str(card["trained_on"]),
        method=request.cohort_map,
        seed=request.plan.seed,
    )
    if found is None:
        map_file(path).unlink(missing_ok=True)
    else:
        write_json(map_file(path), found.document.model_dump(mode="json"))


def _parted(cohort: Cohort, name: str | None) -> tuple[Cohort, Cohort | None]:
    """Return whom to train on, and whom to evaluate on; None where all are trained on."""
    if name is None:
        return cohort, None
    if cohort.centres is None:
        raise ConfigError(f"--train-cohort {name}: the table has no column of cohorts; name it with --cohort-column")
    centres = np.asarray(cohort.centres)
    if name not in cohort.centres:
        raise ConfigError(
            f"--train-cohort {name}: the cohorts of the table are {', '.join(sorted(set(cohort.centres)))}"
        )
    rest = np.flatnonzero(centres != name)
    return cohort.take(np.flatnonzero(centres == name)), cohort.take(rest) if len(rest) else None


def _external(
    path: Path,
    inside: Cohort,
    outside: Cohort | None,
    data: TrainingSet,
    request: SlidesTraining,
    out: Path,
    report: Callable[[str], None],
) -> Evaluation | None:
    for name in ("external.html", "external.json"):  # of an earlier training
        (out / name).unlink(missing_ok=True)
    if outside is None:
        return None
    report(f"other cohorts: {len(outside)} subjects")
    model = load_slide_model(path)
    outside = _answerable(model, outside, report)
    if len({class_within(model, label) for label in outside.labels}) < 2:
        report("note: the other cohorts have subjects of one class only; nothing can be measured there")
        return None
    others = subjects_of(outside.bags, counts=outside.counts, count_names=outside.count_names)
    try:
        found = evaluate_model(model, outside, request.plan, beside=plain_answers(data, others), trained_on=inside)
    except DataError as error:
        report(f"note: the other cohorts could not be evaluated: {error}")
        return None
    for finding in found.study.findings:
        report(f"note: other cohorts: {finding.message}")
    write_assessment(
        found.study, out / "external.html", title=f"{request.name}: other cohorts", notes=_notes(request, model)
    )
    return found


def _answerable(model: SlideEnsemble, cohort: Cohort, report: Callable[[str], None]) -> Cohort:
    """Return the subjects whose class and specimen the model knows; tell of the others."""
    told = {
        "classes": [label if class_within(model, label) is None else "" for label in cohort.labels],
        "specimens": ["" if bag.specimen in model.card["specimens"] else bag.specimen for bag in cohort.bags],
    }
    for what, strange in told.items():
        if any(strange):
            named = ", ".join(sorted(set(strange) - {""}))
            report(f"note: {sum(map(bool, strange))} subjects are of {what} that the model does not know: {named}")
    return cohort.take([i for i in range(len(cohort)) if not any(strange[i] for strange in told.values())])


def _notes(request: SlidesTraining, model: SlideEnsemble) -> list[str]:
    first = "Members, their weights, calibration and limits are fitted anew inside every training part."
    simulated = ["SIMULATED: some or all subjects are simulated; the figures say nothing of patients."]
    return [
        first,
        *(simulated if model.card.get("simulated") else []),
        f"Answers of subjects: {request.cohort.level} level.",
    ]


def _held_out(cohort: Cohort, data: TrainingSet, fitted: FittedModel) -> str:
    rows: list[list[object]] = []
    centres = cohort.centres or ("",) * len(cohort)
    for i, subject in enumerate(data.subjects):
        who = [safe_cell(text_) for text_ in (subject.bag.subject_id, cohort.patients[i], centres[i])]
        p = [f"{value:.6f}" for value in fitted.held_out[i].tolist()]
        rows.append([*who, data.task.codes[int(data.labels[i])], int(fitted.fold[i]) + 1, *p])
    return csv_text(
        ["subject_id", "patient", "cohort", "label", "fold", *(f"p_{code}" for code in data.task.codes)], rows
    )


def _metrics(study: Study, alone: tuple[CellLevel, ...], external: Evaluation | None) -> dict[str, Any]:
    return {
        "study": study.document(),
        "cell_level": document(list(alone)),
        **({} if external is None else {"external": external.to_dict()}),
    }
