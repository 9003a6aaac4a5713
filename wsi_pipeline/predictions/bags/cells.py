"""The nucleated cells of one slide's ``cells.parquet``, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.cells.features import FEATURES
from wsi_pipeline.errors import ConfigError, DataError, some
from wsi_pipeline.predictions.bags.bag import FloatArray, IntArray
from wsi_pipeline.predictions.bags.manifest import same_name
from wsi_pipeline.predictions.bags.runs import FinishedSlide
from wsi_pipeline.taxonomies import load_taxonomy
from wsi_pipeline.taxonomies.attributes import COLUMN
from wsi_pipeline.taxonomies.maps import map_taxonomy

GRANULARITY = "granularity_score"
"""Granularity of a neutrophil's cytoplasm over that of a usual one; only where dysplasia was told."""
MORPHOLOGY: tuple[str, ...] = (*(f.name for f in FEATURES if f.applies_to("white")), GRANULARITY)
"""Measures of nucleated cells, in the order of a bag's columns."""
FLAGS: Mapping[str, str] = {"hypogranular": "measured_hypogranular", "pseudo_pelger": "measured_pseudo_pelger"}
"""Columns of the reference of neutrophils, and their names among the attributes of a bag."""

_OUTLIER = "out_of_distribution"
_GIVEN = ("image", "label_class", "label_taxonomy", "label", "label_given")
FOLDER = "folder"
"""Stands for the taxonomy of labels that no taxonomy knows: the names of class folders, in small letters."""


@dataclass(frozen=True, kw_only=True)
class SlideCells:
    """The nucleated cells of a slide, in the order of the table; fields as of :class:`CellBag`."""

    classes: tuple[str, ...]
    cell_ids: npt.NDArray[np.str_]
    probabilities: FloatArray
    given: IntArray
    given_labels: npt.NDArray[np.str_]
    embedding: FloatArray | None
    morphology: FloatArray
    attributes: Mapping[str, FloatArray]
    outlier: FloatArray | None
    images: tuple[str, ...] | None


def read_cells(slide: FinishedSlide, *, embedding: bool) -> SlideCells:
    """Return the nucleated cells of a slide, read row group by row group.

    Parameters
    ----------
    embedding
        Whether embeddings are wanted.

    Raises
    ------
    DataError
        The table is damaged, does not fit the summary or its taxonomy, or has no embeddings although they are wanted.
    """
    try:
        with pq.ParquetFile(slide.cells) as source:
            schema = source.schema_arrow
            classes = _classes(slide, schema)
            if source.metadata.num_rows != slide.n_cells:
                raise DataError(
                    f"{slide.cells} has {source.metadata.num_rows} cells, its summary.json says {slide.n_cells}: "
                    "the slide is half-written; give the command of the run again, which finishes it"
                )
            if embedding:
                _need_embeddings(slide, schema)
            if slide.images is not None and "image" not in schema.names:
                raise DataError(f"{slide.cells} does not name the images of its gallery; run the gallery again")
            attributes = [n for n in schema.names if n.startswith(COLUMN) or n in FLAGS]
            wanted = {
                "cell_id", "kind", "truncated", *MORPHOLOGY, _OUTLIER, *_GIVEN, *attributes,
                *(f"p_{c}" for c in classes), *(["embedding"] if embedding else []),
            }  # fmt: skip
            columns = [n for n in schema.names if n in wanted]
            tables = [_white(source, group, columns) for group in range(source.num_row_groups)]
            empty = pa.schema([schema.field(n) for n in columns]).empty_table()
            table = pa.concat_tables([empty, *(t for t in tables if t is not None)])
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{slide.cells} cannot be read as a table of cells: {error}") from None
    return _arrays(slide, table, classes, attributes, embedding)


def is_table(slide: FinishedSlide) -> bool:
    """Tell whether the table of a slide's cells can be opened at all."""
    try:
        pq.read_schema(slide.cells)
    except (OSError, pa.ArrowException):
        return False
    return True


def check_embeddings(slide: FinishedSlide) -> None:
    """Refuse a slide whose table has no embeddings; only its schema is read.

    Raises
    ------
    DataError
        It has none, or cannot be read.
    """
    try:
        schema = pq.read_schema(slide.cells)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{slide.cells} cannot be read as a table of cells: {error}") from None
    _need_embeddings(slide, schema)


def _need_embeddings(slide: FinishedSlide, schema: pa.Schema) -> None:
    if "embedding" not in schema.names:
        raise DataError(f"{slide.cells} has no embeddings; run again with --set cells.embedding=true")


def _white(source: pq.ParquetFile, group: int, columns: list[str]) -> pa.Table | None:
    """Return the nucleated cells of a row group; None without any."""
    white = pa.compute.equal(source.read_row_group(group, columns=["kind"]).column("kind"), "white")
    if not pa.compute.any(white).as_py():
        return None
    table = source.read_row_group(group, columns=columns)
    return table if pa.compute.all(white).as_py() else table.filter(white)


def _classes(slide: FinishedSlide, schema: pa.Schema) -> tuple[str, ...]:
    classes = tuple(n.removeprefix("p_") for n in schema.names if n.startswith("p_"))
    unknown = sorted(set(classes) - set(load_taxonomy(slide.taxonomy).codes))
    if unknown or not classes or not {"cell_id", "kind", "truncated"} <= set(schema.names):
        what = f"classes {some(unknown)} are not in taxonomy {slide.taxonomy}" if unknown else "columns are missing"
        raise DataError(f"{slide.cells} is no table of classified cells of this package: {what}")
    return classes


def _arrays(
    slide: FinishedSlide, table: pa.Table, classes: tuple[str, ...], attributes: list[str], embedding: bool
) -> SlideCells:
    n, names = len(table), set(table.column_names)
    whole = ~table.column("truncated").fill_null(False).to_numpy().astype(bool)

    def numbers(name: str) -> FloatArray:
        column = table.column(name)
        return np.asarray(column.cast(pa.float32()).to_numpy(), np.float32)

    def measured(name: str) -> FloatArray:
        return np.where(whole, numbers(name), np.float32(np.nan)) if name in names else np.full(n, np.nan, np.float32)

    p = np.stack([numbers(f"p_{c}") for c in classes], axis=1)
    if not np.isfinite(p).all():
        raise DataError(f"{slide.cells}: {int((~np.isfinite(p)).any(axis=1).sum())} white cells have no probabilities")
    given, labels = _given(slide, table, classes)
    return SlideCells(
        classes=classes,
        cell_ids=np.asarray(table.column("cell_id").to_pylist(), np.str_),
        probabilities=p,
        given=given,
        given_labels=labels,
        embedding=_embedding(slide, table) if embedding else None,
        morphology=np.stack([measured(name) for name in MORPHOLOGY], axis=1),
        attributes={FLAGS.get(name, name.removeprefix(COLUMN)): measured(name) for name in attributes},
        outlier=numbers(_OUTLIER) if _OUTLIER in names else None,
        images=None
        if slide.images is None
        else tuple(str(slide.images / name) for name in table.column("image").to_pylist()),
    )


def _embedding(slide: FinishedSlide, table: pa.Table) -> FloatArray:
    column = table.column("embedding").combine_chunks()
    if column.null_count:
        raise DataError(f"{slide.cells}: {column.null_count} white cells have no embedding; run the slide again")
    found = column.flatten().to_numpy().reshape(len(table), column.type.list_size).astype(np.float32)
    strange = int((~np.isfinite(found)).any(axis=1).sum())
    if strange:
        raise DataError(
            f"{slide.cells}: embeddings of {strange} white cells hold values that are no numbers; run the slide again"
        )
    return found


def _given(slide: FinishedSlide, table: pa.Table, classes: tuple[str, ...]) -> tuple[IntArray, npt.NDArray[np.str_]]:
    """Return the classes that folders and readers gave; what a reader wrote in ``label`` goes before the folder.

    A folder's name that no taxonomy knows is a label all the same, ``folder/NAME``, but no class.
    """
    n = len(table)
    none: list[str | None] = [None] * n
    columns = {name: table.column(name).to_pylist() if name in table.column_names else none for name in _GIVEN[1:]}
    meanings: dict[tuple[str | None, ...], tuple[int, str]] = {}
    keys = list(
        zip(*(columns[name] for name in ("label_taxonomy", "label_class", "label", "label_given")), strict=True)
    )
    for key in set(keys):
        own, code = (slide.taxonomy, _read_label(slide, key[2])) if key[2] else key[:2]
        if own is None or code is None:
            name = same_name((key[3] or "").strip()).casefold()
            meanings[key] = (-1, f"{FOLDER}/{name}" if name else "")
        else:
            found = _mapped(own, slide.taxonomy).get(code)
            meanings[key] = (classes.index(found) if found in classes else -1, f"{own}/{code}")
    index = np.array([meanings[key][0] for key in keys], np.int64)
    return index, np.array([meanings[key][1] for key in keys], np.str_) if n else np.empty(0, np.str_)


def _read_label(slide: FinishedSlide, label: str) -> str:
    code = load_taxonomy(slide.taxonomy).find(label)
    if code is None:
        raise DataError(f"{slide.cells}: the column label holds {label!r}, which is no class of {slide.taxonomy}")
    return code


@cache
def _mapped(source: str, target: str) -> Mapping[str, str]:
    """Return what the classes of one taxonomy become in another, as far as they say the same."""
    try:
        return map_taxonomy(source, target).mapped
    except ConfigError:
        return {}
