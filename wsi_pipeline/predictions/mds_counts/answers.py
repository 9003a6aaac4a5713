"""A patient's answer of the MDS tree, or the reason why there is none; the rows of its CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.predictions.mds_counts.tree import MdsTree
from wsi_pipeline.predictions.mds_counts.words import answer_of, path_words
from wsi_pipeline.predictions.plain_csv import safe_cell

TASK = "mds_cbc"
PANEL = "mds-cbc"
"""Of :func:`~wsi_pipeline.predictions.counts.analytes.load_analytes`."""
Reason = Literal["", "no-real-training-data", "not-applicable", "missing-values", "no-split"]
"""Why there is no answer. ``no-real-training-data``: no model, or one of simulated values without leave to use it.
``not-applicable``: haemoglobin, neutrophils and platelets are known and show no cytopenia. ``missing-values``: the
values that are missing decide. ``no-split``: the tree asks nothing, since no question survived pruning."""

HAEMOGLOBIN, NEUTROPHILS, PLATELETS, SEX = "Hb", "ANC", "PLT", "sex"
NEUTROPENIA_BELOW, THROMBOCYTOPENIA_BELOW = 1.8, 150.0
"""G/L."""
ANAEMIA_BELOW = {"female": 12.0, "male": 13.0}
"""g/dL. Limits of cytopenia in MDS: WHO, 5th edition (Khoury et al., Leukemia 2022;36:1703-1719)."""
FEMALE = 1.0
"""Code of ``sex`` in ``analytes.yaml``; 0 is male."""

COLUMNS = (
    "patient", "task", "predicted", "probability", "lower", "upper", "lowest_possible", "highest_possible",
    "abstained", "reason", "path", "missing", "cautions", "simulated", "model", "trained_on",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MdsAnswer:
    """The answer for one row of a table.

    Parameters
    ----------
    predicted
        The label; empty when abstained.
    probability, lower, upper
        Share of the positive label among the training patients of the leaf, with its Wilson interval: of a population
        like the training table, not of the patient's own. None when abstained.
    possible
        Lowest and highest share among the leaves that missing values leave open; None without a tree that may answer.
    path
        The questions and the patient's answers to them.
    missing
        Canonical names of absent values that the tree asked for on an open way.
    cautions
        Values outside what the training patients had; a simulated model.
    """

    patient: str
    predicted: str
    probability: float | None
    lower: float | None
    upper: float | None
    possible: tuple[float, float] | None
    reason: Reason
    path: str = ""
    missing: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()


def answer_patients(
    tree: MdsTree | None, patients: Sequence[str], values: npt.NDArray[np.float64], *, allow_simulated: bool = False
) -> list[MdsAnswer]:
    """Return one answer a row.

    Parameters
    ----------
    tree
        None where no model was trained: all rows abstain, since none is shipped.
    values
        ``(n, analytes)`` in the order and units of ``tree.analytes``; NaN is missing.
    allow_simulated
        Let a tree of simulated values answer; each row then says so.
    """
    if tree is None or (tree.simulated and not allow_simulated):
        return [_abstained(patient, "no-real-training-data") for patient in patients]
    leaves = tree.leaves(values)
    open_leaves = tree.open_leaves(values)
    no_cytopenia = without_cytopenia(tree.names, values)
    lowest = np.where(open_leaves, tree.shares, np.inf).min(axis=1)
    highest = np.where(open_leaves, tree.shares, -np.inf).max(axis=1)
    ways = {leaf: path_words(tree, leaf, "en") for leaf in sorted({*leaves.tolist()})}
    on_ways = _asked_before(tree)
    found = []
    for i, patient in enumerate(patients):
        leaf = int(leaves[i])
        node = tree.nodes[leaf]
        possible = (float(lowest[i]), float(highest[i]))
        asked = set().union(*(on_ways[j] for j in np.flatnonzero(open_leaves[i]).tolist()))
        missing = tuple(n for n, v in zip(tree.names, values[i], strict=True) if n in asked and np.isnan(v))
        cautions = _cautions(tree, values[i])
        reason: Reason = ""
        if len(tree.nodes) == 1:
            reason = "no-split"
        elif no_cytopenia[i]:
            reason = "not-applicable"
        elif possible[0] <= tree.cut < possible[1]:
            reason = "missing-values"
        if reason:
            found.append(_abstained(patient, reason, possible=possible, missing=missing, cautions=cautions))
            continue
        low, high = wilson(node.positives, node.patients)
        answer = MdsAnswer(
            patient=patient, predicted=answer_of(tree, node), probability=node.share, lower=low, upper=high,
            possible=possible, reason="", path=ways[leaf], missing=missing, cautions=cautions,
        )  # fmt: skip
        found.append(answer)
    return found


def without_cytopenia(names: Sequence[str], values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return the rows that show no cytopenia, ``(n,)``; a row whose haemoglobin, neutrophils or platelets are missing
    is none of them. Without a sex the limit of haemoglobin is that of men, so that no anaemia is passed over.
    """
    unknown = np.full(len(values), np.nan)
    haemoglobin, neutrophils, platelets, sex = (
        values[:, names.index(name)] if name in names else unknown
        for name in (HAEMOGLOBIN, NEUTROPHILS, PLATELETS, SEX)
    )
    limit = np.where(sex == FEMALE, ANAEMIA_BELOW["female"], ANAEMIA_BELOW["male"])
    return (haemoglobin >= limit) & (neutrophils >= NEUTROPENIA_BELOW) & (platelets >= THROMBOCYTOPENIA_BELOW)


def answers_csv(answers: Sequence[MdsAnswer], tree: MdsTree | None, *, model: str) -> str:
    """Return the answers as CSV: shares with four decimals, empty where there is none, text safe in a spreadsheet.

    ``simulated`` is the word itself in every row of a simulated model, and empty elsewhere.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for answer in answers:
        low, high = answer.possible or (None, None)
        row = {
            "patient": answer.patient, "task": TASK, "predicted": answer.predicted,
            "probability": _share(answer.probability), "lower": _share(answer.lower), "upper": _share(answer.upper),
            "lowest_possible": _share(low), "highest_possible": _share(high),
            "abstained": "true" if answer.reason else "false", "reason": answer.reason, "path": answer.path,
            "missing": " ".join(answer.missing), "cautions": "; ".join(answer.cautions),
            "simulated": "simulated" if tree is not None and tree.simulated else "",
            "model": model, "trained_on": "" if tree is None else tree.trained_on,
        }  # fmt: skip
        writer.writerow({key: safe_cell(value) for key, value in row.items()})
    return text.getvalue()


def _cautions(tree: MdsTree, values: npt.NDArray[np.float64]) -> tuple[str, ...]:
    asked = set(tree.asked)
    found = ["simulated"] if tree.simulated else []
    for analyte, value in zip(tree.analytes, values.tolist(), strict=True):
        if analyte.name in asked and (value < analyte.lowest or value > analyte.highest):
            found.append(
                f"{analyte.short['en']} {value:g} outside the training patients' {analyte.lowest:g} to "
                f"{analyte.highest:g}"
            )
    return tuple(found)


def _asked_before(tree: MdsTree) -> list[frozenset[str]]:
    """Return the analytes asked for on the way to each node."""
    found: list[frozenset[str]] = [frozenset()] * len(tree.nodes)
    for number, node in enumerate(tree.nodes):
        if node.split is not None:
            for child in (node.split.below, node.split.above):
                found[child] = found[number] | {node.split.analyte}
    return found


def _abstained(
    patient: str,
    reason: Reason,
    *,
    possible: tuple[float, float] | None = None,
    missing: tuple[str, ...] = (),
    cautions: tuple[str, ...] = (),
) -> MdsAnswer:
    return MdsAnswer(
        patient=patient, predicted="", probability=None, lower=None, upper=None, possible=possible, reason=reason,
        missing=missing, cautions=cautions,
    )  # fmt: skip


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
