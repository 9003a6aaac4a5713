"""Train task ``mds_cbc`` on a table of one's own: a forest says which values matter, a pruned tree answers.

After Zhu et al., BMC Cancer 2022 (doi 10.1186/s12885-022-10059-8). Neither their data nor their tree is public, so no
model is shipped and no cut-off is given: all come from the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsi_pipeline.atomic import write_json, write_text, writing
from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.predictions.assessment.folds import fold_splits, grouped_folds
from wsi_pipeline.predictions.counts.analytes import load_analytes
from wsi_pipeline.predictions.counts.findings import remark, shown
from wsi_pipeline.predictions.counts.reading import read_counts
from wsi_pipeline.predictions.mds_counts import (
    PANEL,
    TASK,
    TREE_FILE,
    tree_svg,
    tree_text,
    without_cytopenia,
    write_tree,
)
from wsi_pipeline.simulation.mds_counts import POSITIVE, write_simulated_table
from wsi_pipeline.training.mds_counts.assessment import assess_tree, figures, fit_tree, telling_gaps
from wsi_pipeline.training.mds_counts.card import card_text, importance_csv
from wsi_pipeline.training.mds_counts.forest import assess_forest
from wsi_pipeline.training.mds_counts.rows import LabelledRows, labelled_rows
from wsi_pipeline.training.mds_counts.tree import Folds

SIMULATED_TABLE = "simulated.csv"
SIMULATED_COLUMN = "simulated"


@dataclass(frozen=True, kw_only=True)
class MdsTraining:
    """What to train on.

    Parameters
    ----------
    table
        CSV file of analyser values, one row a blood count.
    label, positive
        Column of the label, and its value that is asked for; all other values are the other class.
    patient
        Column that names the patient, when it is none that the reader knows.
    folds, repeats
        Folds by patient, outer and inner; arrangements of the inner ones.
    """

    table: Path
    label: str
    positive: str
    patient: str | None = None
    folds: int = 5
    repeats: int = 5
    seed: int = 0


def simulated_training(n: int, out: Path, *, folds: int, repeats: int, seed: int) -> MdsTraining:
    """Write ``simulated.csv`` of ``n`` simulated patients into the folder and return the training on it."""
    table = out / SIMULATED_TABLE
    with writing(out):
        write_simulated_table(table, n, seed=seed)
    return MdsTraining(table=table, label="label", positive=POSITIVE, folds=folds, repeats=repeats, seed=seed)


def train_mds_counts(request: MdsTraining, out: Path, *, report: Callable[[str], None] = lambda _: None) -> Path:
    """Assess, fit on all rows, and write the tree with its card; return the path of ``tree.json``.

    Written are ``tree.json``, ``tree.txt``, ``tree.fr.txt``, ``tree.svg``, ``tree.fr.svg``, ``importance.csv``,
    ``metrics.json`` and ``card.md``; the same request writes the same bytes.

    Raises
    ------
    ConfigError
        Fewer than two folds or no repeat.
    DataError
        The table cannot be learnt from; see :func:`read_training_table`.
    OutputError
        The folder cannot be written.
    """
    if request.folds < 2 or request.repeats < 1:
        raise ConfigError(
            f"{request.folds} folds, {request.repeats} repeats: at least two folds and one repeat are needed"
        )
    rows, findings = read_training_table(request)
    for line in shown(findings):
        report(line)
    n_positive, n = rows.counts
    report(
        f"{n} patients ({n_positive} {rows.positive_name}), {len(rows.positive)} rows, {len(rows.analytes)} analytes"
    )
    trained_on = f"{request.table.name}, {n} patients, {n_positive} {rows.positive_name}"
    if rows.simulated:
        trained_on = f"simulated values: {trained_on}"
    seeds = np.random.SeedSequence(request.seed).generate_state(request.folds + 3).tolist()

    def inner_of(part: LabelledRows, number: int) -> list[Folds]:
        return [patient_folds(part, request.folds, seed=seeds[number] + i) for i in range(request.repeats)]

    outer = patient_folds(rows, request.folds, seed=seeds[-1])
    held_out = assess_tree(rows, outer, inner_of, report=report)
    report("forest: importance of the analytes on held-out patients")
    forest, importance = assess_forest(rows, outer, seed=seeds[-2])
    tree, pruning = fit_tree(rows, inner_of(rows, request.folds), trained_on=trained_on)

    metrics: dict[str, Any] = {
        "task": TASK,
        "positive": rows.positive_name,
        "negative": rows.negative_name,
        "simulated": rows.simulated,
        "trained_on": trained_on,
        "table": {
            "patients": n,
            "positive": n_positive,
            "rows": len(rows.positive),
            "repeated": int((np.bincount(rows.patients) > 1).sum()),
            "without_cytopenia": int(without_cytopenia(tree.names, rows.values[rows.first]).sum()),
            "known": {one.name: round(one.known, 4) for one in tree.analytes},
        },
        "left_out": list(rows.left_out),
        "findings": findings,
        "folds": request.folds,
        "repeats": request.repeats,
        "seed": request.seed,
        **figures(rows, outer, held_out, forest),
        "outer_folds": list(held_out.folds),
        "pruning": {
            "alphas": [None if np.isinf(alpha) else alpha for alpha in pruning.alphas],
            "errors": list(pruning.errors),
            "standard_error": pruning.standard_error,
            "chosen": pruning.chosen,
        },
        "importance": [asdict(one) for one in importance],
        "telling_gaps": telling_gaps(rows),
    }
    with writing(out):
        for language in ("en", "fr"):
            stem = "tree" if language == "en" else f"tree.{language}"
            write_text(out / f"{stem}.txt", tree_text(tree, language))
            write_text(out / f"{stem}.svg", tree_svg(tree, language))
        write_text(out / "importance.csv", importance_csv(importance))
        write_json(out / "metrics.json", metrics)
        write_text(out / "card.md", card_text(tree, metrics, importance))
        write_tree(tree, out / TREE_FILE)
    return out / TREE_FILE


def read_training_table(request: MdsTraining) -> tuple[LabelledRows, list[str]]:
    """Return the labelled rows of a table, and what its reader has to say of its values.

    A row whose column ``simulated`` says anything but no makes the whole table simulated.

    Raises
    ------
    DataError
        The table cannot be read, lacks a column, or cannot be learnt from
        (:func:`~wsi_pipeline.training.mds_counts.rows.labelled_rows`).
    """
    analytes = load_analytes(PANEL)
    table = read_counts(request.table, analytes=analytes, label=request.label)
    patients: Sequence[str] = table.patients
    if request.patient is not None:
        patients = read_counts(request.table, analytes=analytes, label=request.patient).labels or ()
        if blank := sum(not patient.strip() for patient in patients):
            raise DataError(f"{request.table}: {blank} rows have no {request.patient!r}; each row needs its patient")
    simulated: Sequence[str] = ()
    if any(finding.column.strip().casefold() == SIMULATED_COLUMN for finding in table.findings):
        simulated = read_counts(request.table, analytes=analytes, label=SIMULATED_COLUMN).labels or ()
    rows = labelled_rows(
        patients,
        table.values,
        table.labels or (),
        table.analytes,
        positive=request.positive,
        simulated=any(word.strip().casefold() not in ("", "0", "no", "non", "false", "faux") for word in simulated),
        source=str(request.table),
        least_patients=request.folds + 2,  # so that the rest of an outer fold fills the inner ones
    )
    return rows, [remark(finding) for finding in table.findings if finding.column.casefold() != SIMULATED_COLUMN]


def patient_folds(rows: LabelledRows, folds: int, *, seed: int) -> Folds:
    """Return folds by patient, each with about the same share of positive patients."""
    # One subject a patient, so that each fold has patients of both labels.
    first = rows.first
    fold = grouped_folds(rows.positive[first].astype(np.int64), rows.patients[first], folds, seed=seed)
    of_patient = dict(zip(rows.patients[first].tolist(), fold.tolist(), strict=True))
    of_row = np.array([of_patient[patient] for patient in rows.patients.tolist()])
    return [(split.train, split.test) for split in fold_splits(of_row)]
