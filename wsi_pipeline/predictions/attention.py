"""How much each cell weighed in the answers of models: ``attention.parquet`` beside a slide's ``cells.parquet``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.atomic import atomic_path
from wsi_pipeline.errors import DataError

FILE = "attention.parquet"
ATTENTION = "attention_"
RANK = "rank_"


def attention_table(cell_ids: npt.NDArray[np.str_], weights: Mapping[str, npt.NDArray[np.floating]]) -> pa.Table:
    """Return a row a cell in the order of ``cell_ids``, and two columns a model.

    Parameters
    ----------
    cell_ids
        ``(n,)``.
    weights
        ``(n,)`` of each model by its name, adding up to 1.

    Returns
    -------
    pyarrow.Table
        ``cell_id``; ``attention_<model>`` float32; ``rank_<model>`` int32, from 1 for the weightiest cell, of equal
        ones the first.
    """
    columns: dict[str, pa.Array] = {"cell_id": pa.array(cell_ids.tolist(), pa.string())}
    for model, weight in weights.items():
        kept = np.asarray(weight, np.float32)
        rank = np.empty(len(kept), np.int32)
        rank[np.argsort(-kept, kind="stable")] = np.arange(1, len(kept) + 1, dtype=np.int32)
        columns[f"{ATTENTION}{model}"] = pa.array(kept)
        columns[f"{RANK}{model}"] = pa.array(rank)
    return pa.table(columns)


def write_attention(table: pa.Table, path: Path) -> None:
    """Write the table, whole or not at all."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_attention(path: Path) -> dict[str, dict[str, float]]:
    """Return the weights of a table by model and cell.

    Raises
    ------
    DataError
        The file is missing or is no such table.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as a table of attention: {error}") from None
    models = [name.removeprefix(ATTENTION) for name in table.column_names if name.startswith(ATTENTION)]
    if "cell_id" not in table.column_names or not models:
        raise DataError(f"{path} has no attention of cells; found {', '.join(table.column_names)}")
    ids = table.column("cell_id").to_pylist()
    return {
        model: dict(zip(ids, table.column(f"{ATTENTION}{model}").to_pylist(), strict=True)) for model in sorted(models)
    }
