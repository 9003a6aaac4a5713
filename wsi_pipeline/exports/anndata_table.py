"""Cells as an AnnData: measures of every cell of a run, for scanpy and others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.atomic import atomic_path, writing
from wsi_pipeline.cells.features import FEATURES
from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.exports._stream import open_cells
from wsi_pipeline.exports.finished_run import FinishedRun, RunSlide
from wsi_pipeline.taxonomies.attributes import COLUMN

if TYPE_CHECKING:
    from anndata import AnnData

_UNKNOWN_COLOUR = "#808080"
_REQUIRED = ("cell_id", "kind", "class_name", "class_probability", "x_px0", "y_px0", "x_um", "y_um", "truncated")
_MEANS = ("mean_red", "mean_green", "mean_blue")
_TOLD = ("class_probability", "out_of_distribution", "cell_probability", "flow_error", "granularity_score")
"""Numbers that are no measure of the cell: they say how sure the networks were."""


def write_anndata(
    run: FinishedRun, out: Path, *, kinds: Sequence[str] = (), progress: Callable[[RunSlide], None] = lambda _: None
) -> tuple[int, int]:
    """Write the cells of a run as one ``.h5ad`` file; return cells and features.

    Parameters
    ----------
    out
        Replaced when complete.
    kinds
        Of cells that are written, for example ``white``; all without any.
    progress
        Called with each slide that is read.

    Raises
    ------
    ConfigError
        anndata is not installed.
    DataError
        A table cannot be read or lacks a column, or no cell is of the kinds.
    OutputError
        The file cannot be written.
    """
    need("anndata", "export anndata")
    data = cells_anndata(run.slides, versions=run.versions, kinds=kinds, progress=progress)
    with writing(out), atomic_path(out) as temporary:
        data.write_h5ad(temporary, compression="gzip", compression_opts=1)
    return data.n_obs, data.n_vars


def need(package: str, command: str) -> None:
    """Refuse to go on without an optional package."""
    if find_spec(package) is None:
        raise ConfigError(f"{command} needs the package {package}: pip install 'wsi-pipeline[{package}]'")


def cells_anndata(
    slides: Sequence[RunSlide],
    *,
    versions: Mapping[str, str] = MappingProxyType({}),
    kinds: Sequence[str] = (),
    progress: Callable[[RunSlide], None] = lambda _: None,
) -> AnnData:
    """Return cells as an AnnData.

    Returns
    -------
    ``X``
        ``(cells, features)`` float32; NaN where a cell has no such measure. ``var`` has the unit of each.
    ``obs``
        Named ``slide_id:cell_id``: ``slide_id``, ``cell_id``, ``subject_id``, ``label``, ``specimen``, ``kind``,
        ``class_name``, ``truncated``, and how sure the networks were.
    ``obsm``
        ``spatial``: x, y in micrometres; ``spatial_px0``: in level-0 pixels; ``class_probabilities`` and
        ``attributes``: a column a class or attribute, where there are any; ``X_embedding``: NaN for cells without.
    ``uns``
        ``class_name_colors`` in the order of the categories, as scanpy draws them; ``slides``: JSON of fingerprint and
        microns per pixel of each; ``versions``.
    """
    from anndata import AnnData

    tables = []
    for slide in slides:
        tables.append(_table(slide, kinds))
        progress(slide)
    if not sum(len(table) for table in tables):
        raise DataError(f"no cell of kind {' or '.join(kinds)} in the run" if kinds else "the run has no cells")
    names = list(dict.fromkeys(name for table in tables for name in table.column_names))
    features = [feature for feature in (*_MEANS, *(f.name for f in FEATURES)) if feature in names]
    obs = _obs(slides, tables)
    data = AnnData(
        X=_matrix(tables, features),
        obs=obs,
        var=pd.DataFrame({"unit": [_UNITS.get(name, "") for name in features]}, index=features),
    )
    data.obsm["spatial"] = _matrix(tables, ("x_um", "y_um"), np.float64)
    data.obsm["spatial_px0"] = _matrix(tables, ("x_px0", "y_px0"), np.float64)
    for key, prefix in (("class_probabilities", "p_"), ("attributes", COLUMN)):
        columns = [name for name in names if name.startswith(prefix)]
        if columns:
            values = _matrix(tables, columns)
            data.obsm[key] = pd.DataFrame(values, obs.index, [name.removeprefix(prefix) for name in columns])
    if "embedding" in names:
        data.obsm["X_embedding"] = _embedding(tables)
    data.uns["class_name_colors"] = _colours(slides, list(obs["class_name"].cat.categories))
    data.uns["slides"] = json.dumps(
        {s.slide_id: {"fingerprint": s.fingerprint, "mpp": s.mpp, "taxonomy": s.taxonomy} for s in slides}
    )
    data.uns["versions"] = {name: str(version) for name, version in versions.items()}
    return data


_UNITS = {**dict.fromkeys(_MEANS, "0 to 255"), **{feature.name: feature.unit for feature in FEATURES}}


def _table(slide: RunSlide, kinds: Sequence[str]) -> pa.Table:
    with open_cells(slide.cells, _REQUIRED) as file:
        names = file.schema_arrow.names
    known = (*_REQUIRED, *_MEANS, *(f.name for f in FEATURES), *_TOLD, "embedding")
    columns = [name for name in names if name in known or name.startswith(("p_", COLUMN))]
    try:
        table = pq.read_table(slide.cells, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{slide.cells} is damaged ({error}); run the slide again") from None
    return table.filter(pa.compute.is_in(table.column("kind"), pa.array(kinds))) if kinds else table


def _matrix(
    tables: Sequence[pa.Table], columns: Sequence[str], dtype: type[np.floating[Any]] = np.float32
) -> npt.NDArray[np.floating[Any]]:
    """Return columns of all tables; NaN for nulls and for columns that a table lacks."""
    matrix = np.full((sum(map(len, tables)), len(columns)), np.nan, dtype)
    first = 0
    for table in tables:
        for number, name in enumerate(columns):
            if name in table.column_names:
                values = table.column(name).cast(pa.float64()).to_numpy()
                matrix[first : first + len(table), number] = values
        first += len(table)
    return matrix


def _embedding(tables: Sequence[pa.Table]) -> npt.NDArray[np.float32]:
    sizes = {table.schema.field("embedding").type.list_size for table in tables if "embedding" in table.column_names}
    if len(sizes) > 1:
        found = " and ".join(map(str, sorted(sizes)))
        raise DataError(f"embeddings of {found} numbers: slides of one export must have one classifier")
    (size,) = sizes
    matrix = np.full((sum(map(len, tables)), size), np.nan, np.float32)
    first = 0
    for table in tables:
        if "embedding" in table.column_names:
            column = table.column("embedding").combine_chunks()
            has = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
            matrix[first + has] = column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
        first += len(table)
    return matrix


def _obs(slides: Sequence[RunSlide], tables: Sequence[pa.Table]) -> pd.DataFrame:
    parts = []
    for slide, table in zip(slides, tables, strict=True):
        part = {
            "slide_id": slide.slide_id,
            "cell_id": table.column("cell_id").to_pylist(),
            "subject_id": slide.subject_id,
            "label": slide.label,
            "specimen": slide.specimen,
            "kind": table.column("kind").to_pylist(),
            "class_name": table.column("class_name").to_pylist(),
            "truncated": table.column("truncated").to_numpy(),
        }
        told = {name: _matrix([table], [name])[:, 0] for name in _TOLD}
        parts.append(pd.DataFrame({**part, **told}))
    obs = pd.concat(parts, ignore_index=True)
    obs = obs.drop(columns=[name for name in _TOLD if obs[name].isna().all()])
    for name in ("slide_id", "subject_id", "label", "specimen", "kind", "class_name"):
        obs[name] = obs[name].astype("category")
    return obs.set_index(pd.Index(obs["slide_id"].astype(str) + ":" + obs["cell_id"], name=None))


def _colours(slides: Sequence[RunSlide], categories: Sequence[str]) -> list[str]:
    known: dict[str, str] = {}
    for slide in slides:
        for taxonomy in slide.taxonomies():
            for cell in taxonomy.classes:
                known.setdefault(cell.code, "#{:02x}{:02x}{:02x}".format(*cell.color))
    return [known.get(code, _UNKNOWN_COLOUR) for code in categories]
