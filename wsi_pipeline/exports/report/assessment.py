"""The report of an evaluation: every figure with its number of subjects, its interval, and the baseline beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.atomic import write_text
from wsi_pipeline.exports.report import curves
from wsi_pipeline.exports.report.curves import Chart, Line, line_chart
from wsi_pipeline.exports.report.render import render
from wsi_pipeline.exports.report.words import Words
from wsi_pipeline.predictions.assessment import BASELINE, Estimate, Study
from wsi_pipeline.predictions.assessment.assess import Assessment, ClassAssessment
from wsi_pipeline.predictions.assessment.calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class ClassView:
    """The charts of one class, and its figures for each candidate as (candidate, figures)."""

    name: str
    n: int
    roc: Chart
    reliability: Chart
    decision: Chart
    rows: tuple[tuple[str, ClassAssessment], ...]


def write_assessment(study: Study, path: Path, *, title: str, notes: Sequence[str] = ()) -> None:
    """Write a study as one self-contained HTML file, and as JSON beside it.

    Parameters
    ----------
    study
        Of :func:`~wsi_pipeline.predictions.assessment.run_study`.
    path
        The HTML file; the JSON has the same name and ends in ``.json``.
    title, notes
        Plain text: what was evaluated, and sentences a reader must know (whose patients, what was kept aside).

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    render(
        "assessment.html.j2",
        path,
        Words(),
        study=study,
        title=title,
        notes=list(notes),
        baseline=BASELINE,
        json_name=path.with_suffix(".json").name,
        class_views=[_class_view(study, c) for c in range(len(study.classes))],
        risk_chart=_risk_chart(study.assessments),
        top_reliability=_reliability_chart(
            f"Reliability of the likeliest class, {study.n} subjects",
            [(a.candidate, a.reliability) for a in study.assessments],
        ),
        learning_charts=_learning_charts(study),
        estimate=estimate,
        p_value=p_value,
        share=lambda value: f"{100 * value:.1f} %",
        frame=curves,
    )
    write_text(path.with_suffix(".json"), study.to_json())


def estimate(found: Estimate, digits: int = 3) -> str:
    """Return a figure with its interval; says when there is none."""
    if found.value is None:
        return "undefined"
    value = f"{found.value:.{digits}f}"
    if found.lower is None or found.upper is None:
        return f"{value} (no interval)"
    return f"{value} ({found.lower:.{digits}f} to {found.upper:.{digits}f})"


def p_value(p: float | None) -> str:
    """Return a p value with three decimals, or that it is below 0.001."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _class_view(study: Study, c: int) -> ClassView:
    rows = tuple((a.candidate, a.per_class[c]) for a in study.assessments)
    name, n = study.classes[c], study.n_by_class[c]
    of = f"{name}, {n} of {study.n} subjects"
    roc = [Line(name="chance", points=[(0, 0), (1, 1)], reference=True)]
    for candidate, figures in rows:
        if candidate != BASELINE and figures.roc:
            steps = len(figures.roc) - 1
            roc.append(Line(name=candidate, points=[(i / steps, v) for i, v in enumerate(figures.roc)]))
    return ClassView(
        name=name,
        n=n,
        roc=line_chart(
            roc, title=f"ROC curve: {of}", x_label="1 - specificity, %", y_label="Sensitivity, %", percent=True
        ),
        reliability=_reliability_chart(f"Reliability: {of}", [(who, f.reliability) for who, f in rows]),
        decision=_decision_chart(of, rows),
        rows=rows,
    )


def _reliability_chart(title: str, tables: Sequence[tuple[str, Calibration]]) -> Chart:
    lines = [Line(name="perfect", points=[(0, 0), (1, 1)], reference=True)]
    for candidate, table in tables:
        if candidate != BASELINE:
            points = [(b.confidence, b.accuracy) for b in table.bins if b.n and b.confidence is not None]
            lines.append(Line(name=candidate, points=[(x, y) for x, y in points if y is not None]))
    return line_chart(lines, title=title, x_label="Probability given, %", y_label="Share true, %", percent=True)


def _decision_chart(of: str, rows: Sequence[tuple[str, ClassAssessment]]) -> Chart:
    any_curve = rows[0][1].decision
    lines = [
        Line(name="treat nobody", points=[(0, 0), (1, 0)], reference=True),
        Line(name="treat everybody", points=[(p.threshold, p.treat_all) for p in any_curve], reference=True),
    ]
    for candidate, figures in rows:
        values = [(p.threshold, p.net_benefit) for p in figures.decision]
        lines.append(
            Line(
                name=candidate,
                points=[(t, e.value) for t, e in values if e.value is not None],
                reference=candidate == BASELINE,
                band=[
                    (t, e.lower, e.upper)
                    for t, e in values
                    if e.lower is not None and e.upper is not None and candidate != BASELINE
                ],
            )
        )
    top = max([any_curve[0].treat_all, *(e.net_benefit.value or 0.0 for _, f in rows for e in f.decision)])
    ceiling = math.ceil(max(top, 0.04) * 25) / 25
    return line_chart(
        lines,
        title=f"Decision curve: {of}",
        x_label="Threshold probability",
        y_label="Net benefit",
        y_range=(round(-0.25 * ceiling, 6), ceiling),
    )


def _risk_chart(assessments: Sequence[Assessment]) -> Chart:
    lines = []
    for found in assessments:
        points = [(p.coverage, p.accuracy) for p in found.risk.points]
        plain = found.candidate == BASELINE
        lines.append(
            Line(
                name=found.candidate,
                points=[(x, 1 - e.value) for x, e in points if e.value is not None],
                reference=plain,
                band=[
                    (x, 1 - e.upper, 1 - e.lower)
                    for x, e in points
                    if e.lower is not None and e.upper is not None and not plain
                ],
            )
        )
    worst = max((y for line in lines for _, y in line.points), default=1.0)
    return line_chart(
        lines,
        title=f"Risk-coverage curve, {assessments[0].n} subjects",
        x_label="Subjects answered, %",
        y_label="Wrong answers, %",
        y_range=(0.0, max(0.1, math.ceil(10 * worst) / 10)),
        percent=True,
    )


def _learning_charts(study: Study) -> list[Chart]:
    """Return a chart a class; the baseline's AUC is 0.5 by its nature."""
    points = [p for curve in study.learning for p in curve.points]
    if not points:
        return []
    most = max(p.n_train for p in points)
    charts = []
    for c, name in enumerate(study.classes):
        lines = [Line(name=f"{BASELINE} (0.5)", points=[(0, 0.5), (most, 0.5)], reference=True)]
        for curve in study.learning:
            known = [(p.n_train, p.auc[c]) for p in curve.points if p.auc]
            lines.append(
                Line(
                    name=curve.candidate,
                    points=[(x, e.value) for x, e in known if e.value is not None],
                    band=[(x, e.lower, e.upper) for x, e in known if e.lower is not None and e.upper is not None],
                )
            )
        charts.append(
            line_chart(
                lines,
                title=f"Learning curve: {name}, {study.n_by_class[c]} of {study.n} subjects",
                x_label="Training patients",
                y_label="AUC",
                x_range=(0.0, most),
                y_range=(0.4, 1.0),
            )
        )
    return charts
