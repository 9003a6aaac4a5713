"""From a table of analyser values to a CSV file of answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsi_pipeline.atomic import write_text, writing
from wsi_pipeline.errors import ConfigError, ModelError
from wsi_pipeline.predictions.counts.analytes import load_analytes
from wsi_pipeline.predictions.counts.findings import remark, shown
from wsi_pipeline.predictions.counts.reading import CountsTable, read_counts
from wsi_pipeline.predictions.mds_counts.answers import PANEL, MdsAnswer, answer_patients, answers_csv
from wsi_pipeline.predictions.mds_counts.tree import MdsTree, read_tree


def predict_mds_counts(
    table: Path,
    out: Path,
    *,
    model: Path | None,
    allow_simulated: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> list[MdsAnswer]:
    """Answer each row of a table and write the answers.

    Parameters
    ----------
    table
        CSV file as ``train mds-counts`` takes; a label is not needed.
    out
        CSV file to write, one row a row of the table, in its order.
    model
        Folder of ``train mds-counts`` or its ``tree.json``; None abstains everywhere, since no model is shipped.
    report
        Gets the first twenty things that the reader remarked on; refused values also stand in their rows' cautions.

    Raises
    ------
    ConfigError
        ``out`` is the table.
    DataError
        The table cannot be read.
    ModelError
        The model is missing, malformed, or asks for what the package does not know in that unit.
    OutputError
        ``out`` cannot be written.
    """
    if out.resolve() == table.resolve():
        raise ConfigError(f"--out {out} is the table itself; give another file")
    tree = None if model is None else read_tree(model)
    read = read_counts(table, analytes=load_analytes(PANEL))
    remarks = [remark(finding) for finding in read.findings]
    for line in shown(remarks):
        report(line)
    if tree is None:
        answers = answer_patients(None, read.patients, read.values)
    else:
        values, refused = _columns(tree, read, str(model))
        answers = answer_patients(tree, read.patients, values, allow_simulated=allow_simulated)
        answers = [_with_refused(answer, tree, row) for answer, row in zip(answers, refused, strict=True)]
    with writing(out):
        write_text(out, answers_csv(answers, tree, model="" if model is None else model.name))
    return answers


def _columns(tree: MdsTree, read: CountsTable, model: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return values and refusals in the order of the tree's analytes."""
    units = {analyte.name: analyte.unit for analyte in read.analytes}
    for analyte in tree.analytes:
        if units.get(analyte.name) != analyte.unit:
            raise ModelError(
                f"{model} asks for {analyte.name} in {analyte.unit!r}; this version reads "
                + (f"it in {units[analyte.name]!r}" if analyte.name in units else f"only {', '.join(units)}")
            )
    order = [list(units).index(name) for name in tree.names]
    return read.values[:, order], read.refused[:, order]


def _with_refused(answer: MdsAnswer, tree: MdsTree, refused: npt.NDArray[np.bool_]) -> MdsAnswer:
    names = [analyte.short["en"] for analyte, one in zip(tree.analytes, refused, strict=True) if one]
    if not names:
        return answer
    return replace(answer, cautions=(*answer.cautions, f"refused values: {', '.join(names)}"))
