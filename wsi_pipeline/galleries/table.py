"""``cells.parquet`` of a gallery: the columns of a slide's, places null, and what the folders say."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.atomic import atomic_path
from wsi_pipeline.cells.classifier import Probabilities
from wsi_pipeline.cells.features import FEATURES
from wsi_pipeline.cells.measure import CELL_NAMESPACE
from wsi_pipeline.cells.schema import CELLS_FILE, ROW_GROUP, table_schema
from wsi_pipeline.galleries.labels import GivenLabel
from wsi_pipeline.galleries.survey import Surveyed
from wsi_pipeline.taxonomies import Taxonomy
from wsi_pipeline.taxonomies.attributes import COLUMN

GIVEN = (
    pa.field("image", pa.string()),
    pa.field("label_given", pa.string()),
    pa.field("label_class", pa.string()),
    pa.field("label_taxonomy", pa.string()),
)
"""Columns that only galleries have: the image below the patient's folder, its class folder, what that means."""

_WITHOUT_NUCLEUS = ("platelet", "giant_platelet", "platelet_clump", "red_cell", "artefact", "other_object")
"""Meanings of classes whose cells have no nucleus to be measured."""
_OF_WHITE = tuple(f.name for f in FEATURES if f.applies_to("white") and not f.applies_to("red"))
_NOT_OF_WHITE = tuple(f.name for f in FEATURES if not f.applies_to("white"))


def gallery_schema(
    classes: Sequence[str], embedding_dim: int | None, evidence: Sequence[str], attributes: Sequence[str]
) -> pa.Schema:
    """Return the schema of a gallery's ``cells.parquet``; parameters as of :func:`table_schema`."""
    schema = table_schema(classes, embedding_dim, evidence, attributes)
    for field in GIVEN:
        schema = schema.append(field)
    return schema


def cell_ids(found: Sequence[Surveyed]) -> list[str]:
    """Return an id for each image: UUIDv5 of its bytes, so it stays when a reader moves it to another class folder.

    Of identical images of a patient the second and later ones have an id of their own.
    """
    seen: Counter[str] = Counter()
    ids = []
    for s in found:
        ids.append(str(uuid.uuid5(CELL_NAMESPACE, f"image/{s.digest}/{seen[s.digest]}")))
        seen[s.digest] += 1
    return ids


def cells_table(
    found: Sequence[Surveyed],
    measured: pa.Table,
    answers: Probabilities,
    *,
    evidence: Mapping[str, npt.NDArray[np.float32]],
    attributes: Mapping[str, npt.NDArray[np.float32]],
    classes: Sequence[str],
    taxonomy: Taxonomy,
    labels: Mapping[str, GivenLabel],
    embedding: bool,
) -> pa.Table:
    """Return the table of a patient, a row an image, in their order.

    Parameters
    ----------
    found
        The images that were used.
    measured
        Their rows from :class:`~wsi_pipeline.galleries.measure.ImageMeasurer`.
    answers
        Of the classifier, ``(n, classes)``.
    evidence, attributes
        Columns of evidence, and probabilities of attributes by code, NaN where a cell cannot have it; each ``(n,)``.
    labels
        Meaning of each class folder.
    embedding
        Whether the embedding becomes a column.
    """
    n = len(found)
    best = answers.p.argmax(axis=1)
    names = np.asarray(classes, object)[best]
    columns = {name: measured.column(name) for name in measured.column_names}
    columns["cell_id"] = pa.array(cell_ids(found), pa.string())
    columns["kind"] = pa.array(["white"] * n, pa.string())
    columns["class_name"] = pa.array(names, pa.string())
    columns["class_probability"] = pa.array(answers.p.max(axis=1), pa.float32())
    for i, name in enumerate(classes):
        columns[f"p_{name}"] = pa.array(np.ascontiguousarray(answers.p[:, i]))
    columns |= {name: pa.array(values) for name, values in evidence.items()}
    columns |= {f"{COLUMN}{name}": pa.array(values, mask=np.isnan(values)) for name, values in attributes.items()}
    bare = {c.code for c in taxonomy.classes if c.meaning in _WITHOUT_NUCLEUS}
    _clear(columns, np.isin(names.astype(str), sorted(bare)), _OF_WHITE)
    _clear(columns, np.ones(n, bool), _NOT_OF_WHITE)
    if embedding:
        flat = pa.array(np.ascontiguousarray(answers.embedding).ravel())
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, answers.embedding.shape[1])
    given = [labels.get(s.image.label or "") for s in found]
    columns["image"] = pa.array([s.image.name for s in found], pa.string())
    columns["label_given"] = pa.array([s.image.label for s in found], pa.string())
    columns["label_class"] = pa.array([g.code if g else None for g in given], pa.string())
    columns["label_taxonomy"] = pa.array([g.taxonomy if g else None for g in given], pa.string())
    dimension = answers.embedding.shape[1] if embedding else None
    schema = gallery_schema(classes, dimension, tuple(evidence), tuple(attributes))
    return pa.table([columns[field.name] for field in schema], schema=schema)


def _clear(columns: dict[str, pa.ChunkedArray], where: npt.NDArray[np.bool_], names: Sequence[str]) -> None:
    for name in names if where.any() else ():
        none = pa.scalar(None, columns[name].type)
        columns[name] = pa.compute.if_else(pa.array(where), none, columns[name])


def write_table(table: pa.Table, out: Path) -> None:
    """Write ``cells.parquet``, whole or not at all."""
    with atomic_path(out) as temporary:
        pq.write_table(table, temporary, row_group_size=ROW_GROUP, **CELLS_FILE)
