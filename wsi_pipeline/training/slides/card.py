"""The card of a slide-level model: on whom it was trained, how good it is there, and what it cannot know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_pipeline.predictions.assessment import Study
from wsi_pipeline.predictions.bags import CellBag, Cohort
from wsi_pipeline.predictions.slide_models.ensemble import SlideEnsemble
from wsi_pipeline.predictions.slide_models.storage import TASK
from wsi_pipeline.predictions.slide_models.trees import TreeMember
from wsi_pipeline.predictions.slide_models.unusual import WORDS
from wsi_pipeline.training.cards import Card, DataSource, Figure, figure_of
from wsi_pipeline.training.cells.train_shipped import today
from wsi_pipeline.training.slides.fit import COVERAGE, FittedModel
from wsi_pipeline.training.slides.importance import importance_table
from wsi_pipeline.training.slides.members import TrainingSet, is_of_sections, reads_embedding
from wsi_pipeline.training.slides.study import CellLevel
from wsi_pipeline.weights import shipped_weights

if TYPE_CHECKING:
    from wsi_pipeline.training.slides.train import SlidesTraining


def slide_card(
    request: SlidesTraining,
    cohort: Cohort,
    data: TrainingSet,
    fitted: FittedModel,
    study: Study,
    alone: tuple[CellLevel, ...],
) -> Card:
    """Return the card; its ``simulated`` is true where any subject is simulated."""
    simulated = any(bag.simulated for bag in cohort.bags)
    counts = dict(zip(data.task.codes, np.bincount(data.labels, minlength=data.n_classes).tolist(), strict=True))
    n_patients = int(np.unique(data.patients).size)
    where = "" if cohort.centres is None else f", {len(set(cohort.centres))} cohort(s)"
    title = request.title or request.cohort.manifest.name
    mix = ", ".join(f"{name} {n}" for name, n in counts.items())
    trained_on = f"{'simulated: ' if simulated else ''}{n_patients} patients ({mix}){where}: {title}"
    bag = cohort.bags[0]
    specimens = tuple(sorted({b.specimen for b in cohort.bags}))
    # Of subjects that have nothing optional, and of those with labels, routine counts, or both.
    weights = {
        key or "without labels or counts": {name: round(w, 6) for name, w in own.weights.items()}
        for key, own in fitted.model.combinations.items()
    }
    members = ", ".join(fitted.model.scalings)
    classifier = {"name": _classifier(bag), "sha256": bag.classifier_sha256}
    return Card(
        name=request.name,
        task=TASK,
        description=f"{'SIMULATED. ' if simulated else ''}{data.task.description} Members: {members}.",
        classes=data.task.codes,
        specimens=specimens,
        mpp=None,
        data=(
            DataSource(title=title, licence=request.licence, attribution=request.attribution, n_train=len(data)),
        ),
        licence=request.licence,
        split={"by": "patient", "folds": request.plan.folds, "repeats": request.plan.repeats, **counts},
        figures=tuple([*_figures(study, request.kind), *_cells(alone)]),
        fails_on=limits(data, cohort, fitted.model),
        date=today(),
        details={
            "slide_task": data.task.model_dump(mode="json"),
            "taxonomy": bag.taxonomy,
            "classifier": {**classifier, "classes": list(bag.classes)},
            "reads_embedding": reads_embedding(request.kind, sections=is_of_sections(data.task)),
            "simulated": simulated,
            "trained_on": trained_on,
            "limits": list(limits(data, cohort, fitted.model)),
            "kind": request.kind,
            "encoder": request.encoder,
            "level": request.cohort.level,
            "seed": request.plan.seed,
            "member_weights": weights,
            "coverage": COVERAGE,
        },
        tables=_tables(data, fitted),
    )  # fmt: skip


def limits(data: TrainingSet, cohort: Cohort, model: SlideEnsemble) -> tuple[str, ...]:
    """Return what the model cannot know, one sentence each."""
    others = ", ".join(own.name_en for own in data.task.classes)
    few = [data.task.codes[c] for c in model.combinations[""].sets.never_left_out]
    unseen = [words for name, words in WORDS.items() if name not in model.unusual.parts]
    said = [
        f"It calls everyone one of: {others}. Whoever has something else is called one of them, too.",
        f"Its probabilities hold for the mix of classes it was trained on ({_mix(data)}); elsewhere they shift.",
        "It sees cells alone: no genetics, no clinical findings, no treatment.",
        f"Sets of classes aim to hold the true one in {100 * COVERAGE:.0f} % of subjects like those of the training; "
        "this is not guaranteed, least of all for other laboratories.",
    ]
    if cohort.centres is None or len(set(cohort.centres)) < 2:
        said.append("It was trained on one cohort; how it does in another laboratory is not known.")
    if data.maps is not None:
        said.append("It reads the pixels of cells again: a run whose images or slides were moved gets no answer.")
    if few:
        said.append(f"Of {', '.join(few)} there were too few subjects to ever leave the class out of a set.")
    if unseen:
        said.append(
            f"It does not notice an unusual {' or '.join(unseen)}: too few training subjects to tell, or no data."
        )
    if any(bag.simulated for bag in cohort.bags):
        said.insert(0, "SIMULATED: it learnt from simulated subjects and says nothing of a patient.")
    return tuple(said)


def _mix(data: TrainingSet) -> str:
    share = np.bincount(data.labels, minlength=data.n_classes) / len(data)
    return ", ".join(f"{name} {100 * s:.0f} %" for name, s in zip(data.task.codes, share.tolist(), strict=True))


def _classifier(bag: CellBag) -> str:
    sha256 = bag.classifier_sha256
    if not sha256:
        return "none"
    return next((name for name, w in shipped_weights().items() if w.sha256 == sha256), sha256[:12])


def _figures(study: Study, kind: str) -> list[Figure]:
    plan = study.plan
    by_name = {a.candidate: a for a in study.assessments}
    on = f"{plan.repeats} x {plan.folds} folds by patient"
    found = []
    for c, name in enumerate(study.classes[:1] if len(study.classes) == 2 else study.classes):
        for candidate, own in by_name.items():
            suffix = "" if candidate == kind else f", {candidate}"
            if own is not study.assessments[-1]:
                found.append(figure_of(f"AUC {name}{suffix}", on, study.n, own.per_class[c].auc))
    trivial = study.assessments[-1]
    found.append(figure_of("accuracy", on, study.n, by_name[kind].accuracy, trivial.accuracy))
    found.append(figure_of("expected calibration error", on, study.n, by_name[kind].ece, trivial.ece))
    for transfer in study.transfers:
        if transfer.candidate == kind and transfer.assessment is not None:
            where = f"{' and '.join(transfer.trained_on)} (n {transfer.n_train}) to {transfer.tested_on}"
            one = transfer.assessment
            found += [figure_of(f"AUC {c.name}", where, one.n, c.auc) for c in one.per_class]
    return found


def _cells(alone: tuple[CellLevel, ...]) -> list[Figure]:
    return [
        figure_of(f"image-level AUC {code}", f"{own.of}, patients left out in folds", own.n_cells, auc)
        for own in alone
        for code, auc in own.auc.items()
    ]


def _tables(data: TrainingSet, fitted: FittedModel) -> dict[str, str]:
    tables: dict[str, Any] = {}
    rows = importance_table(fitted.model, data)
    if rows:
        tables["What weighs: mean effect on the margin over the training subjects"] = rows
    tree = next((m for m in fitted.model.members if isinstance(m, TreeMember)), None)
    if tree is not None:
        tables["A tree on paper, of the first fold; a line ends with its training patients"] = tree.text(
            data.task.codes
        )
    return tables
