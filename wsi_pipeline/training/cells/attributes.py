"""Labels of attributes beside those of classes: read, checked, and measured. What nobody looked at is unknown.

A column ``attr_<code>`` (or ``<code>``) an attribute of the registry; ``1`` present, ``0`` absent, empty unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.csv_rows import read_rows
from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.assessment.bootstrap import Estimate, percentile_estimate
from wsi_pipeline.taxonomies import Taxonomy
from wsi_pipeline.taxonomies.attributes import COLUMN, load_attributes
from wsi_pipeline.training.cards import Figure, figure_of
from wsi_pipeline.training.cells.listing import some

FROM_COLUMNS = "columns"
"""``--attributes columns``: the CSV file of the cells has the columns itself."""
UNKNOWN = -1
MIN_EACH = 5
"""Training cells with and without an attribute that it takes to learn it."""
_KEYS = ("name", "path", "cell_id")


@dataclass(frozen=True, kw_only=True)
class AttributeLabels:
    """Attributes of packed cells.

    Attributes
    ----------
    codes
        Of the attributes, in the registry's order.
    values
        int8 ``(n, len(codes))``: 1 present, 0 absent, -1 unknown.
    classes
        For each attribute the classes that can have it.
    notes
        What was noticed.
    """

    codes: tuple[str, ...]
    values: npt.NDArray[np.int8]
    classes: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def to_card(self) -> list[dict[str, Any]]:
        """Return the entry of a card."""
        return [{"code": code, "classes": list(own)} for code, own in zip(self.codes, self.classes, strict=True)]


def read_attributes(
    asked: str, data: Path, names: Sequence[str], labels: npt.NDArray[np.str_], taxonomy: Taxonomy
) -> AttributeLabels:
    """Return the attributes of cells.

    Parameters
    ----------
    asked
        ``columns``, or a CSV file with a column ``name``, ``path`` or ``cell_id`` (what ``split.csv`` calls the cell)
        and a column an attribute.
    data
        What the cells were read from.
    names, labels
        Name and class of each packed cell.

    Raises
    ------
    DataError
        No such file or columns, values other than 0, 1 and empty, cells that are named twice or not there, an
        attribute on a cell whose class cannot have it.
    """
    path = data if asked == FROM_COLUMNS else Path(asked)
    if path.suffix.lower() != ".csv" or not path.is_file():
        what = f"{data} is no CSV file; name one with --attributes" if asked == FROM_COLUMNS else "no CSV file is there"
        raise DataError(f"--attributes {asked}: {what}")
    header, rows = read_rows(path)
    registry = load_attributes()
    columns = {code: column for code in registry.codes for column in (code, COLUMN + code) if column in header}
    unknown = [c for c in header if c.startswith(COLUMN) and c.removeprefix(COLUMN) not in registry.codes]
    if unknown or not columns:
        raise DataError(
            f"{path}: {'columns of no attribute: ' + ', '.join(unknown) if unknown else 'no column of an attribute'}; "
            f"the registry has {', '.join(COLUMN + code for code in registry.codes)}"
        )
    boxes = path == data and "path" not in header
    key = next((k for k in _KEYS if k in header), None)
    if key is None:
        raise DataError(f"{path} has the columns {', '.join(header)}; one of {', '.join(_KEYS)} is needed")
    codes = tuple(columns)
    found: dict[str, list[int]] = {}
    for line, row in rows:
        name = f"{row[key]}@line{line}" if boxes else row[key]
        if path == data and not boxes and row.get("x"):
            name = f"{row[key]}@{row['x']},{row['y']}"
        if name in found:
            raise DataError(f"{path} line {line}: {name} was named before; one row a cell is needed")
        found[name] = [_value(row[columns[code]], f"{path} line {line}, {columns[code]}") for code in codes]
    known = set(names)
    absent = [name for name in found if name not in known]
    if absent and path != data:
        raise DataError(f"{path}: {len(absent)} rows name no cell of {data}: {some(absent)}")
    blank = [UNKNOWN] * len(codes)
    values = np.array([found.get(name, blank) for name in names], np.int8).reshape(len(names), len(codes))
    own = tuple(registry.get(code).classes_of(taxonomy) for code in codes)
    for i, code in enumerate(codes):
        wrong = np.flatnonzero((values[:, i] == 1) & ~np.isin(labels, own[i]))
        if len(wrong):
            listed = some(f"{names[j]} ({labels[j]})" for j in wrong.tolist())
            raise DataError(
                f"{path}: {code} is said of {len(wrong)} cells whose class cannot have it: {listed}; in taxonomy "
                f"{taxonomy.name} it is of {', '.join(own[i]) or 'no class'}"
            )
        values[~np.isin(labels, own[i]), i] = UNKNOWN
    return AttributeLabels(codes=codes, values=values, classes=own)


def _value(text: str, where: str) -> int:
    if text not in ("", "0", "1"):
        raise DataError(f"{where}: {text!r}; 1 (present), 0 (absent) or nothing (unknown) is needed")
    return UNKNOWN if text == "" else int(text)


def learnable(labels: AttributeLabels, split: npt.NDArray[np.str_]) -> AttributeLabels:
    """Return the attributes of which enough training cells are known, and note the others.

    Raises
    ------
    DataError
        None is left.
    """
    train = labels.values[split == "train"]
    counts = {
        code: (int((train[:, i] == 1).sum()), int((train[:, i] == 0).sum())) for i, code in enumerate(labels.codes)
    }
    kept = [i for i, code in enumerate(labels.codes) if min(counts[code]) >= MIN_EACH]
    few = [f"{code} ({counts[code][0]} with, {counts[code][1]} without)" for code in labels.codes
           if min(counts[code]) < MIN_EACH]  # fmt: skip
    if not kept:
        raise DataError(
            f"no attribute can be learnt: {', '.join(few)}; {MIN_EACH} training cells with it and as many without are "
            "needed"
        )
    note = (f"left out attributes with too few training cells: {', '.join(few)}",) if few else ()
    return AttributeLabels(
        codes=tuple(labels.codes[i] for i in kept),
        values=labels.values[:, kept],
        classes=tuple(labels.classes[i] for i in kept),
        notes=(*labels.notes, *note),
    )


def attribute_figures(
    truth: npt.NDArray[np.int8], p: npt.NDArray[np.float32], groups: npt.NDArray[np.int64], labels: AttributeLabels
) -> tuple[Figure, ...]:
    """Return AUROC and average precision of each attribute on test cells where it is known, resampling groups.

    Parameters
    ----------
    truth, p
        ``(n, k)`` labels, and probabilities of the attributes whatever class was answered.
    groups
        ``(n,)``.
    """
    figures = []
    for i, code in enumerate(labels.codes):
        known = truth[:, i] != UNKNOWN
        y, score, group = truth[known, i], p[known, i].astype(np.float64), groups[known]
        share = float(y.mean()) if len(y) else None
        on = f"test cells where it is known, {int((y == 1).sum())} with it"
        for name, measure in (("AUROC", _auroc), ("average precision", _precision)):
            found = _resampled(y, score, group, measure)
            base = Estimate(value=0.5 if name == "AUROC" else share, lower=None, upper=None)
            figures.append(figure_of(f"{name} of {code}", on, len(y), found, base if len(y) else None))
    return tuple(figures)


def _auroc(y: npt.NDArray[np.int8], score: npt.NDArray[np.float64]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(y, score))


def _precision(y: npt.NDArray[np.int8], score: npt.NDArray[np.float64]) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(y, score))


def _resampled(
    y: npt.NDArray[np.int8], score: npt.NDArray[np.float64], group: npt.NDArray[np.int64], measure: Any,
    replicates: int = 200,
) -> Estimate:  # fmt: skip
    if len(np.unique(y)) < 2:
        return Estimate(value=None, lower=None, upper=None)
    members = [np.flatnonzero(group == g) for g in np.unique(group)]
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(replicates):
        rows = np.concatenate([members[j] for j in rng.integers(0, len(members), len(members))])
        samples.append(measure(y[rows], score[rows]) if len(np.unique(y[rows])) == 2 else np.nan)
    return percentile_estimate(measure(y, score), np.array(samples))
