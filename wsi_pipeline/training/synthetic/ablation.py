"""Do generated images help? The same split, steps and seeds, with and without them, on the same real test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.atomic import write_json, write_text
from wsi_pipeline.cells.classifier import CellClassifier
from wsi_pipeline.evaluation.tables import text_table
from wsi_pipeline.predictions.assessment.bootstrap import Estimate, FloatArray, bootstrap_units, divide
from wsi_pipeline.training.cells.outputs import write_rows
from wsi_pipeline.training.cells.own_data import OwnCells
from wsi_pipeline.training.cells.report import typed
from wsi_pipeline.training.synthetic.guard import check_synthetic_in_train

ARMS = ("real", "real and synthetic")


def compare(
    pairs: Sequence[tuple[CellClassifier, ...]],
    own: OwnCells,
    test: npt.NDArray[np.int64],
    seed: int,
    out: Path,
    report: Callable[[str], None],
) -> Path:
    """Write ``ablation.csv``, ``.json`` and ``.md``; return the first.

    Parameters
    ----------
    pairs
        For each seed the classifier trained on real images, and the one trained on generated ones, too.
    test
        Index of the test cells; all are real.
    seed
        The first seed; the others follow.

    Notes
    -----
    Intervals are of the bootstrap over test groups, the same groups for both at a time, so that the interval of the
    difference is that of pairs. It carries the chance of the test images; that of the training is seen in the seeds.
    """
    check_synthetic_in_train(own.cells.sources[test], np.full(len(test), "test"))
    truth = own.labels[test]
    answers = [[typed(c, own.cells, test).p.argmax(axis=1) for c in pair] for pair in pairs]
    found = macro_f1_of_arms(truth, answers, own.groups[test], len(own.classes))
    seeds = [str(seed + i) for i in range(len(pairs))]
    rows: list[list[Any]] = []
    for key, label in [*((s, s) for s in seeds), *([("mean", "mean of seeds")] if len(seeds) > 1 else [])]:
        for arm in (*ARMS, "difference"):
            e = found[f"{arm} {seeds.index(key) if key in seeds else key}"]
            rows.append([label, arm, len(test), e.value, e.lower, e.upper])
    header = ["seed", "trained on", "test_cells", "macro_f1", "lower", "upper"]
    write_rows(out / "ablation.csv", header, rows)
    by_class = []
    for i, name in enumerate(own.classes):
        scores = [float(np.mean([_f1(truth, pair[arm], i) for pair in answers])) for arm in (0, 1)]
        by_class.append([name, int((truth == i).sum()), *scores])
    table = text_table([*header[:2], "test cells", "macro-F1", "lower", "upper"], [_short(r) for r in rows])
    classes = text_table(["F1 by class, mean of seeds", "test cells", *ARMS], [_short(r) for r in by_class])
    write_text(
        out / "ablation.md",
        f"# Real against real and synthetic\n\n```\n{table}\n```\n\n```\n{classes}\n```\n\nThe same split, steps and "
        f"seeds; {len(test)} real test cells in {len(np.unique(own.groups[test]))} groups. 95 % intervals of a "
        "bootstrap over test groups, paired for the difference.\n",
    )
    write_json(
        out / "ablation.json",
        {
            "test_cells": len(test),
            "macro_f1": {k: {"value": e.value, "lower": e.lower, "upper": e.upper} for k, e in found.items()},
            "f1_by_class": {row[0]: dict(zip(ARMS, row[2:], strict=True)) for row in by_class},
        },
    )
    report(table)
    return out / "ablation.csv"


def macro_f1_of_arms(
    truth: npt.NDArray[np.int64],
    answers: Sequence[Sequence[npt.NDArray[np.int64]]],
    groups: npt.NDArray[np.int64],
    n_classes: int,
) -> dict[str, Estimate]:
    """Return macro-F1 of both arms and their difference, for each seed (``real 0``, ...) and in the mean of seeds.

    Parameters
    ----------
    truth, groups
        Class and group of each test cell.
    answers
        For each seed the answers of both arms.
    """
    _, unit = np.unique(groups, return_inverse=True)
    size = n_classes * n_classes
    counts = np.zeros((int(unit.max()) + 1, 2 * len(answers) * size))
    for block, answer in enumerate(a for pair in answers for a in pair):
        np.add.at(counts, (unit, block * size + truth * n_classes + answer), 1)

    def figures(pooled: FloatArray) -> dict[str, FloatArray]:
        scores = np.stack(
            [_macro_f1(pooled[:, b * size : (b + 1) * size], n_classes) for b in range(2 * len(answers))], axis=1
        ).reshape(len(pooled), len(answers), 2)
        table: dict[str, FloatArray] = {}
        for k, part in [*((str(i), scores[:, i]) for i in range(len(answers))), ("mean", scores.mean(axis=1))]:
            table |= {f"{ARMS[0]} {k}": part[:, 0], f"{ARMS[1]} {k}": part[:, 1]}
            table[f"difference {k}"] = part[:, 1] - part[:, 0]
        return table

    return bootstrap_units(counts, figures)


def _macro_f1(flat: FloatArray, k: int) -> FloatArray:
    """Return macro-F1 of flattened confusion matrices ``(samples, k * k)`` over the classes with true cells."""
    matrix = flat.reshape(-1, k, k)
    support = matrix.sum(axis=2)
    f1 = np.nan_to_num(divide(2 * np.diagonal(matrix, axis1=1, axis2=2), support + matrix.sum(axis=1)))
    present = support > 0
    return divide((f1 * present).sum(axis=1), present.sum(axis=1).astype(np.float64))


def _short(row: list[Any]) -> list[Any]:
    return [f"{v:.3f}" if isinstance(v, float) else v for v in row]


def _f1(truth: npt.NDArray[np.int64], answer: npt.NDArray[np.int64], label: int) -> float:
    hit = int(((truth == label) & (answer == label)).sum())
    both = int((truth == label).sum() + (answer == label).sum())
    return 2 * hit / both if both else float("nan")
