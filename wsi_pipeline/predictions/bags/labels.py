"""Cohorts: bags whose class is known, with patients, centres and routine counts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError, some
from wsi_pipeline.predictions.bags.bag import CellBag
from wsi_pipeline.predictions.bags.manifest import Manifest, ManifestRow, read_labels, same_name
from wsi_pipeline.predictions.bags.matching import matched
from wsi_pipeline.predictions.bags.routine import RoutineCounts, panel_of, read_routine_counts

AGE = "age"


class LabelTask(Protocol):
    """What a cohort needs to know of a task."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def specimens(self) -> Collection[str]:
        """Specimens it is asked of; empty for all smears."""

    @property
    def classes(self) -> Sequence[Any]:
        """Its classes: codes, or what has a ``code``."""

    def class_of(self, label: str) -> str | None:
        """Return the code of the class that a label means; None where it means none."""


@dataclass(frozen=True, kw_only=True)
class CohortNotes:
    """Who is not in a cohort, and why; names in the order of the table or of the bags.

    Parameters
    ----------
    without_bag
        Subjects of the table without cells: not run, failed, or named otherwise.
    without_label
        Bags that the table does not name, or names without a label.
    without_cells
        Labelled subjects without one nucleated cell.
    other_specimen
        Labelled subjects whose specimen the task is not asked of.
    ignored
        Labels outside the task that were left out as asked, with their subjects.
    counts
        Remarks on the routine counts of the table.
    """

    without_bag: tuple[str, ...] = ()
    without_label: tuple[str, ...] = ()
    without_cells: tuple[str, ...] = ()
    other_specimen: tuple[str, ...] = ()
    ignored: Mapping[str, tuple[str, ...]] | None = None
    counts: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return one sentence for each kind that occurs."""
        said = (
            (self.without_bag, "subjects of the table have no cells in these runs"),
            (self.without_label, "subjects of these runs have no label in the table"),
            (self.without_cells, "labelled subjects have no nucleated cell and were left out"),
            (self.other_specimen, "labelled subjects are of a specimen that the task is not asked of"),
            *((names, f"subjects of label {label!r}, outside the task, were left out")
              for label, names in (self.ignored or {}).items()),
        )  # fmt: skip
        return [*(f"{len(names)} {what}: {some(names)}" for names, what in said if names), *self.counts]


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """``n`` subjects with cells and a class of a task.

    Parameters
    ----------
    task
        Its name.
    bags
        In the order of their subjects.
    labels
        Class of each, a code of the task.
    patients
        Patient of each; subjects of one patient are never parted.
    centres
        Cohort or centre of each; None where the table has no such column.
    counts, count_names
        ``(n, k)`` routine counts in canonical units, NaN where missing, and their analytes; None without any.
    age
        ``(n,)`` years, NaN where missing; None where the table has none.
    notes
        Who was left out.
    """

    task: str
    bags: tuple[CellBag, ...]
    labels: tuple[str, ...]
    patients: tuple[str, ...]
    centres: tuple[str, ...] | None
    counts: npt.NDArray[np.float64] | None
    count_names: tuple[str, ...]
    age: npt.NDArray[np.float64] | None
    notes: CohortNotes

    def __len__(self) -> int:
        return len(self.bags)

    def take(self, rows: npt.ArrayLike) -> Cohort:
        """Return some of the subjects."""
        chosen = np.asarray(rows, np.int64)
        places = chosen.tolist()
        return replace(
            self,
            bags=tuple(self.bags[i] for i in places),
            labels=tuple(self.labels[i] for i in places),
            patients=tuple(self.patients[i] for i in places),
            centres=None if self.centres is None else tuple(self.centres[i] for i in places),
            counts=None if self.counts is None else self.counts[chosen],
            age=None if self.age is None else self.age[chosen],
        )


def read_cohort(
    manifest: Path,
    bags: Sequence[CellBag],
    task: LabelTask,
    *,
    ignore_unknown_labels: bool = False,
    label_column: str | None = None,
    cohort_column: str | None = None,
) -> Cohort:
    """Return the bags that a table gives a class of the task.

    A bag is found by its slide, else by its patient. Columns: :func:`~wsi_pipeline.predictions.bags.manifest.
    read_labels`; beside them the names of routine counts that ``predict counts`` knows.

    Parameters
    ----------
    manifest
        CSV table of patients or slides with their labels.
    bags
        Of patients or of slides.
    ignore_unknown_labels
        Leave out subjects whose label means no class of the task, instead of refusing the table.
    label_column, cohort_column
        Names of these columns, where they have others.

    Raises
    ------
    DataError
        The table cannot be read; labels outside the task; a patient with two classes or in two cohorts; a slide of
        one patient in the run and of another in the table; nobody of the table has cells; or fewer than two classes.
    """
    table = read_labels(manifest, label=label_column, cohort=cohort_column)
    classes = {row.label: task.class_of(row.label) for row in table.rows if row.label}
    ignored = _outside(table, classes, task, ignore_unknown_labels)
    _one_each(table, classes, [(row.name, row) for row in table.rows])
    rows_of = matched(table, bags)
    # Again by the patients that the runs know, whom the table need not name.
    _one_each(table, classes, [(_patient(bag, rows), r) for bag, rows in zip(bags, rows_of, strict=True) for r in rows])
    kept: list[tuple[CellBag, list[ManifestRow], str]] = []
    left: dict[str, list[str]] = {"label": [], "cells": [], "specimen": []}
    for bag, rows in zip(bags, rows_of, strict=True):
        label = next((row.label for row in rows if row.label), "")
        own = classes.get(label)
        if own is None:
            if not label:
                left["label"].append(bag.subject_id)
        elif task.specimens and bag.specimen not in task.specimens:
            left["specimen"].append(bag.subject_id)
        elif not len(bag):
            left["cells"].append(bag.subject_id)
        else:
            kept.append((bag, rows, own))
    used = {row.line for rows in rows_of for row in rows}
    if not used:
        raise DataError(
            f"{manifest} names none of the subjects with cells: it has {some(row.name for row in table.rows)}; the "
            f"runs have {some(bag.subject_id for bag in bags)}"
        )
    found = sorted({own for _, _, own in kept})
    if not kept and left["cells"]:
        raise DataError(f"{manifest}: none of its {len(left['cells'])} labelled subjects has a nucleated cell")
    if len(found) < 2:
        raise DataError(
            f"{manifest}: {len(kept)} subjects with cells, all {found[0] if found else 'without a class'}; task "
            f"{task.name} needs two or more of its classes {', '.join(_codes(task))}"
        )
    there = {row.name for row in table.rows if row.line in used}
    counts = read_routine_counts(table, [rows for _, rows, _ in kept], panel=panel_of(kept[0][0].specimen))
    return Cohort(
        task=task.name,
        bags=tuple(bag for bag, _, _ in kept),
        labels=tuple(own for _, _, own in kept),
        patients=tuple(_patient(bag, rows) for bag, rows, _ in kept),
        centres=_centres(table, kept),
        counts=counts.values if counts.names else None,
        count_names=counts.names,
        age=_age(counts),
        notes=CohortNotes(
            without_bag=tuple(dict.fromkeys(r.name for r in table.rows if r.name not in there and r.line not in used)),
            without_label=tuple(left["label"]),
            without_cells=tuple(left["cells"]),
            other_specimen=tuple(left["specimen"]),
            ignored=ignored,
            counts=counts.remarks,
        ),
    )


def _outside(
    table: Manifest, classes: Mapping[str, str | None], task: LabelTask, ignore: bool
) -> dict[str, tuple[str, ...]]:
    """Return the labels that mean no class, with their subjects; refuse them unless they may be ignored."""
    outside = {
        label: tuple(dict.fromkeys(row.name for row in table.rows if row.label == label))
        for label, own in classes.items()
        if own is None
    }
    if outside and not ignore:
        named = "; ".join(f"{label!r} ({len(names)}: {some(names)})" for label, names in list(outside.items())[:5])
        raise DataError(
            f"{table.path}: labels outside task {task.name}: {named}. Its classes are {', '.join(_codes(task))}; leave "
            "such subjects out with --ignore-unknown-labels"
        )
    return outside


def _codes(task: LabelTask) -> list[str]:
    return [str(getattr(own, "code", own)) for own in task.classes]


def _patient(bag: CellBag, rows: Sequence[ManifestRow]) -> str:
    """Return the patient of a bag as names are compared: by the table, else by the run."""
    return next((row.patient for row in rows if row.patient), same_name(bag.patient_id))


def _one_each(table: Manifest, classes: Mapping[str, str | None], rows: Sequence[tuple[str, ManifestRow]]) -> None:
    """Refuse subjects with two classes or in two cohorts; ``rows`` with whom each is of."""
    for what, value in (
        ("labels", lambda row: (classes[row.label] or row.label) if row.label else ""),
        ("cohorts", lambda row: row.cohort),
    ):
        said: dict[str, dict[str, int]] = {}
        for name, row in rows:
            if value(row):
                said.setdefault(name, {}).setdefault(value(row), row.line)
        twice = {name: found for name, found in said.items() if len(found) > 1}
        if twice:
            named = "; ".join(
                f"{name} ({', '.join(f'{v} in line {line}' for v, line in found.items())})"
                for name, found in list(twice.items())[:5]
            )
            raise DataError(f"{table.path}: {len(twice)} patients have two {what}: {named}")


def _centres(table: Manifest, kept: Iterable[tuple[CellBag, list[ManifestRow], str]]) -> tuple[str, ...] | None:
    if table.cohort_column is None:
        return None
    centres = [(bag.subject_id, next((row.cohort for row in rows if row.cohort), "")) for bag, rows, _ in kept]
    silent = [name for name, centre in centres if not centre]
    if len(silent) == len(centres):
        return None
    if silent:
        raise DataError(
            f"{table.path}: the column {table.cohort_column!r} says nothing of {len(silent)} subjects: {some(silent)}"
        )
    return tuple(centre for _, centre in centres)


def _age(counts: RoutineCounts) -> npt.NDArray[np.float64] | None:
    return counts.values[:, counts.names.index(AGE)] if AGE in counts.names else None
