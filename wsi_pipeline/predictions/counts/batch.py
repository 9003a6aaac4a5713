"""Tables of blood counts to tables of answers, in chunks, so that memory does not grow with the table."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from wsi_pipeline.atomic import atomic_path, writing
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.predictions.counts.features import ANALYTES, CLASSES, FloatArray
from wsi_pipeline.predictions.counts.findings import Finding
from wsi_pipeline.predictions.counts.model import CountsModel
from wsi_pipeline.predictions.counts.reading import iter_counts
from wsi_pipeline.predictions.counts.table import CountsTable
from wsi_pipeline.predictions.plain_csv import safe_cell

COLUMNS = (
    "patient",
    "p_AML",
    "p_ALL",
    "p_APL",
    "predicted",
    "trust",
    "reason",
    "apl_alert",
    "lower_AML",
    "upper_AML",
    "lower_ALL",
    "upper_ALL",
    "lower_APL",
    "upper_APL",
    "n_values",
    "missing",
    "refused",
    "model",
)
"""Of the table of answers; ``lower`` and ``upper`` are what missing values leave open."""

CONTRIBUTION_COLUMNS = (
    "patient", "predicted", "analyte", "value", "effect_AML", "effect_ALL", "effect_APL", "words_en", "words_fr",
)  # fmt: skip
"""Of the table of contributions: a row a value, from the strongest effect (log-odds) on the predicted class."""

_PLACES = 10_000
_TEXTS = np.array([*(str(i / _PLACES) for i in range(_PLACES + 1)), ""], object)
"""Of fractions with four decimals; -1 is none."""

FINDING_COLUMNS = ("row", "patient", "column", "kind", "raw", "message")


def predict_table(
    paths: Sequence[Path],
    out: Path,
    *,
    model: CountsModel,
    units: dict[str, str] | None = None,
    explain: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Counter[str]:
    """Answer every row of tables, in their order.

    Parameters
    ----------
    out
        CSV file of answers; what the reader remarked on goes to ``<stem>.findings.csv`` beside it.
    units
        Unit by column, where a file does not say it.
    explain
        Also write what each value adds to each answer to ``<stem>.contributions.csv``; some 20 patients a second.
    progress
        Is told how many rows are answered, after each chunk.

    Returns
    -------
    Counter
        Rows by trust, by reason and by class (``trust:green``, ``reason:outlier``, ``class:AML``), findings by kind
        (``finding:converted``), and ``rows``.

    Raises
    ------
    ConfigError
        ``out`` is a folder, or it or the findings beside it are one of the tables.
    DataError
        A table cannot be read.
    OutputError
        ``out`` cannot be written.
    """
    if not out.name or os.path.isdir(out):
        raise ConfigError(f"--out {out} is a folder; give the CSV file to write")
    remarked, explained = (out.with_name(f"{out.stem}.{what}.csv") for what in ("findings", "contributions"))
    read = {path.resolve() for path in paths}
    for written in (out, remarked, *([explained] if explain else [])):
        if written.resolve() in read:
            raise ConfigError(f"--out {out} would write over the table {written}; give another file")
    counts: Counter[str] = Counter()
    name = safe_cell(str(model.card.get("name", "")))
    with _written(out) as answers, _written(remarked) as findings, ExitStack() as stack:
        contributions = csv.writer(stack.enter_context(_written(explained)), lineterminator="\n") if explain else None
        if contributions is not None:
            contributions.writerow(CONTRIBUTION_COLUMNS)
        remarks = csv.writer(findings, lineterminator="\n")
        remarks.writerow(FINDING_COLUMNS)
        rows = csv.writer(answers, lineterminator="\n")
        rows.writerow(COLUMNS)
        for table in iter_counts(list(paths), units=units):
            rows.writerows(_answer_rows(table, model, name, counts))
            remarks.writerows(_finding_row(finding) for finding in table.findings)
            if contributions is not None:
                contributions.writerows(_contribution_rows(table, model))
            counts.update(f"finding:{finding.kind}" for finding in table.findings)
            progress(counts["rows"])
    return counts


def _answer_rows(table: CountsTable, model: CountsModel, name: str, counts: Counter[str]) -> Iterator[tuple[str, ...]]:
    found = model.predict(table.values)
    words = np.array([*CLASSES, ""])[found.predicted]
    counts["rows"] += len(words)
    for kind, column in (("trust", found.trust), ("reason", found.reason), ("class", words)):
        for word, n in zip(*np.unique(column, return_counts=True), strict=True):
            counts[f"{kind}:{word}"] += int(n)
    columns: dict[str, Sequence[str]] = {
        "patient": [safe_cell(patient) for patient in table.patients],
        "predicted": words.tolist(),
        "trust": found.trust.tolist(),
        "reason": found.reason.tolist(),
        "apl_alert": np.where(found.apl_alert, "true", "false").tolist(),
        "n_values": [str(n) for n in found.n_values.tolist()],
        "missing": _names(np.isnan(table.values) & ~table.refused),
        "refused": _names(table.refused),
        "model": [name] * len(words),
    }
    for i, label in enumerate(CLASSES):
        columns[f"p_{label}"] = _decimals(found.probabilities[:, i])
        columns[f"lower_{label}"] = _decimals(found.lower[:, i])
        columns[f"upper_{label}"] = _decimals(found.upper[:, i])
    return zip(*(columns[column] for column in COLUMNS), strict=True)


def _decimals(fractions: FloatArray) -> list[str]:
    """Return fractions with up to four decimals, empty where there is none; each number is put into words once."""
    whole = np.rint(np.where(np.isnan(fractions), -1e-4, fractions) * _PLACES).astype(int)
    texts: list[str] = _TEXTS[whole].tolist()
    return texts


def _contribution_rows(table: CountsTable, model: CountsModel) -> Iterator[list[str]]:
    for patient, values in zip(table.patients, table.values, strict=True):
        known = {name: float(v) for name, v in zip(ANALYTES, values, strict=True) if not np.isnan(v)}
        answer = model.answer(patient, known, precondition=True)
        for part in answer.contributions:
            yield [
                safe_cell(patient),
                answer.predicted,
                part.analyte,
                "" if part.value is None else f"{part.value:.6g}",
                *(f"{part.effect[name]:.4f}" for name in ("AML", "ALL", "APL")),
                part.words["en"],
                part.words["fr"],
            ]


def _names(which: npt.NDArray[np.bool_]) -> list[str]:
    """Return the names of the marked analytes of each row; each pattern is put into words once."""
    codes = which @ (1 << np.arange(len(ANALYTES)))
    words = {int(code): " ".join(name for i, name in enumerate(ANALYTES) if code >> i & 1) for code in np.unique(codes)}
    return [words[code] for code in codes.tolist()]


def _finding_row(finding: Finding) -> list[str]:
    row = "" if finding.row is None else str(finding.row)
    texts = (finding.patient, finding.column, finding.kind, finding.raw, finding.message)
    return [row, *(safe_cell(text) for text in texts)]


@contextmanager
def _written(path: Path) -> Iterator[IO[str]]:
    with (
        writing(path),
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        yield file
