"""Train the model of acute leukaemia from routine blood counts, with its card and the study of its recipe.

The inputs are those of AIPAL (Alcazer et al., Lancet Digit Health 6:e323, 2024); the answer is ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_pipeline.atomic import write_bytes, write_json, writing
from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.exports.report.assessment import write_assessment
from wsi_pipeline.predictions.assessment import Plan, Study
from wsi_pipeline.predictions.counts.features import ANALYTES, CLASSES
from wsi_pipeline.predictions.counts.findings import remark, shown
from wsi_pipeline.predictions.counts.labelled import LabelledCounts, read_labelled
from wsi_pipeline.predictions.counts.model import TASK, model_path, pack
from wsi_pipeline.predictions.counts.trust import TrustRules
from wsi_pipeline.predictions.counts.words import PRECONDITION
from wsi_pipeline.training.cards import Card, DataSource, Figure, figure_of, write_card
from wsi_pipeline.training.cells.train_shipped import today
from wsi_pipeline.training.counts.fit import fit_counts
from wsi_pipeline.training.counts.study import PLAIN, RECIPE, study_recipe, study_trust

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")

LEAST_PATIENTS = 20
"""Patients of each class that a training needs; our choice, so that every inner fold has some."""


@dataclass(frozen=True, kw_only=True)
class CountsTraining:
    """What to train on, and what the card says of it.

    Parameters
    ----------
    tables, label
        CSV files, one a centre (or with a column of centres), and the column of the class.
    plan
        Of the study.

    Raises
    ------
    ConfigError
        The name is no plain name.
    """

    tables: tuple[Path, ...]
    label: str
    name: str
    licence: str
    title: str
    attribution: str
    plan: Plan
    seed: int = 0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"--name {self.name!r}: letters, digits, '-' and '_' are needed, not a path")


def train_counts(request: CountsTraining, out: Path, *, report: Callable[[str], None] = lambda _: None) -> Path:
    """Train, study, and write the model, its cards, ``study.html``, ``study.json`` and ``metrics.json``.

    Returns
    -------
    Path
        The model's ``.trees.json.gz``.

    Raises
    ------
    DataError
        A table cannot be read, or a class has too few patients.
    OutputError
        ``out`` cannot be written.
    """
    data = read_labelled(request.tables, label=request.label)
    for line in shown([remark(finding) for finding in data.findings]):
        report(line)
    few = [f"{name} {n}" for name, n in data.n_by_class.items() if n < LEAST_PATIENTS]
    if few:
        raise DataError(
            f"{', '.join(str(t) for t in request.tables)}: {', '.join(few)} patients; {LEAST_PATIENTS} of each class "
            "are needed"
        )
    weights = model_path(out, request.name)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        report(
            f"{data.n_patients} patients; rows: {', '.join(f'{c} {n}' for c, n in data.n_by_class.items())}; fitting"
        )
        model = fit_counts(data, request.seed)
        write_bytes(weights, pack(model))
        trust = study_trust(data, request.seed, report)
        report(f"study: {request.plan.repeats} x {request.plan.folds} folds, centre to centre, learning curve, null")
        study = study_recipe(data, request.plan)
        write_assessment(
            study,
            out / "study.html",
            title=f"{request.name}: AML, ALL or APL from blood counts",
            notes=[PRECONDITION["en"], "Figures of the recipe; the shipped model is fitted to all of these patients."],
        )
        write_json(out / "metrics.json", {"trust": trust, "study": study.document()})
        write_card(_card(request, data, study, trust, model.rules), weights)
    return weights


def _card(
    request: CountsTraining, data: LabelledCounts, study: Study, trust: dict[str, Any], rules: TrustRules
) -> Card:
    return Card(
        name=request.name,
        task=TASK,
        description=(
            "AML, ALL or APL from age and routine blood counts: three XGBoost families whose margins are averaged. "
            + PRECONDITION["en"]
        ),
        classes=CLASSES,
        specimens=("blood_counts",),
        mpp=None,
        data=(
            DataSource(
                title=request.title, licence=request.licence, attribution=request.attribution, n_train=len(data)
            ),
        ),
        licence=request.licence,
        split={
            "by": "patient, and centre to centre" if len(data.centre_names) > 1 else "patient",
            "folds": request.plan.folds,
            "repeats": request.plan.repeats,
            **data.n_by_class,
        },
        figures=(*_auc_figures(study), *_trust_figures(trust)),
        fails_on=(
            "Not valid where acute leukaemia is neither established nor strongly suspected: it was trained on patients "
            "with one of the three, and calls every other patient one of them.",
            "Green covers a part of the patients only. How answers hold on a centre that it was not trained on is "
            "shown by the figures from centre to centre, where there are two or more.",
            f"{_children(data)} of the {len(data)} rows are of patients under 18 years. "
            "Leukaemias other than the three, mixed-phenotype ones among them, are called one of the three.",
            *_never_green(rules),
            "The three families, their settings and the rule of green were chosen while looking at such figures of the "
            "patients of Lyon and Clermont-Ferrand; on these the figures are somewhat optimistic.",
            "Limits of the values, the percent and absolute checks and the words of an explanation are our choice.",
        ),
        date=today(),
        details={
            "analytes": list(ANALYTES),
            "trained_on": f"{data.n_patients} patients, {len(data.centre_names)} centre(s): {request.title}",
            "trust_measured": trust["folds"],
            **({"trust_between_centres": trust["between_centres"]} if "between_centres" in trust else {}),
        },
    )


def _never_green(rules: TrustRules) -> list[str]:
    names = [name for name, threshold in zip(CLASSES, rules.green, strict=True) if threshold > 1]
    return (
        [f"{' and '.join(names)} is never green: held-out answers were too few or not right enough."] if names else []
    )


def _children(data: LabelledCounts) -> int:
    return int((data.values[:, ANALYTES.index("age")] < 18).sum())


def _auc_figures(study: Study) -> list[Figure]:
    plan, figures = study.plan, []
    by_name = {a.candidate: a for a in study.assessments}
    on = f"{plan.repeats} x {plan.folds} folds by patient"
    for i, name in enumerate(study.classes):
        found = by_name[RECIPE].per_class[i]
        plain = by_name[PLAIN].per_class[i].auc
        figures.append(figure_of(f"AUC {name}", on, study.n, found.auc))
        figures.append(figure_of(f"AUC {name}, plain refit", on, study.n, plain))
    whole = by_name[RECIPE]
    trivial = study.assessments[-1]
    figures.append(figure_of("accuracy", on, study.n, whole.accuracy, trivial.accuracy))
    figures.append(figure_of("expected calibration error", on, study.n, whole.ece, trivial.ece))
    for transfer in study.transfers:
        if transfer.candidate in (RECIPE, PLAIN) and transfer.assessment is not None:
            where = f"{' and '.join(transfer.trained_on)} (n {transfer.n_train}) to {transfer.tested_on}"
            suffix = "" if transfer.candidate == RECIPE else ", plain refit"
            figures += [
                figure_of(f"AUC {c.name}{suffix}", where, transfer.assessment.n, c.auc)
                for c in transfer.assessment.per_class
            ]
    return figures


def _trust_figures(trust: dict[str, Any]) -> list[Figure]:
    figures = []
    for key, on in (
        ("folds", "patients left out, thresholds inside the folds"),
        ("between_centres", "centre left out"),
    ):
        for entry, name in (
            ("green", "accuracy of green answers"),
            ("orange", "accuracy of orange answers"),
            ("red", "accuracy of red answers"),
            ("green_coverage", "share of green answers"),
            ("apl_alert_sensitivity", "APL alert, sensitivity among answered patients"),
            ("apl_alert_specificity", "APL alert, specificity among answered patients"),
        ):
            if key in trust:
                share = trust[key][entry]
                figures.append(
                    Figure(
                        name=name, on=on, n=share["n"], value=share["value"], lower=share["lower"], upper=share["upper"]
                    )
                )
    return figures
