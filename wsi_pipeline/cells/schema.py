"""Columns of ``cells.parquet``: GeoParquet 1.1, one row a cell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wsi_pipeline.cells.features import FEATURES
from wsi_pipeline.taxonomies.attributes import COLUMN

KIND_CLASS = {
    "white": "white_cell",
    "red": "red_cell",
    "platelet": "platelet",
    "nucleus": "nucleus",
    "megakaryocyte": "megakaryocyte",
    "other": "other",
}
"""``class_name`` of cells that no classifier has seen."""

_NAMED = (
    "area_um2", "perimeter_um", "circularity", "solidity", "eccentricity", "nucleus_area_um2", "nc_ratio",
)  # fmt: skip
"""Morphology that stands at a place of its own."""

MEASURED = pa.schema(
    [
        ("cell_id", pa.string()),
        ("geometry", pa.binary()),
        ("x_px0", pa.float64()),
        ("y_px0", pa.float64()),
        ("x_um", pa.float64()),
        ("y_um", pa.float64()),
        ("area_um2", pa.float32()),
        ("perimeter_um", pa.float32()),
        ("kind", pa.string()),
        ("class_name", pa.string()),
        ("class_probability", pa.float32()),
        ("circularity", pa.float32()),
        ("solidity", pa.float32()),
        ("eccentricity", pa.float32()),
        ("mean_red", pa.float32()),
        ("mean_green", pa.float32()),
        ("mean_blue", pa.float32()),
        ("nucleus_area_um2", pa.float32()),
        ("nc_ratio", pa.float32()),
        *((feature.name, pa.float32()) for feature in FEATURES if feature.name not in _NAMED),
        ("cell_probability", pa.float32()),
        ("flow_error", pa.float32()),
        ("nucleus", pa.binary()),
        ("block", pa.string()),
        ("truncated", pa.bool_()),
        ("seed_x", pa.int32()),
        ("seed_y", pa.int32()),
    ]
)
"""Columns known after segmentation. Coordinates are level-0 pixels (``_px0``) or microns from the level-0 origin;
``seed_x`` and ``seed_y`` are working pixels. All of :data:`~wsi_pipeline.cells.features.FEATURES` are here."""


TOO_LARGE = b"too_large"
"""Key in the metadata of a block's part: its cells that reach ``segmentation.max_cell_diameter_um``; none if absent."""
TOO_LARGE_SEEDS = b"too_large_seeds"
"""Key beside it: their seeds (x, y; working pixels) as a JSON array."""


EMBEDDING = "embedding"
"""Column of embeddings, where they are asked for."""


def embedding_field(dim: int) -> pa.Field:
    """Return the column of embeddings of a length."""
    return pa.field(EMBEDDING, pa.list_(pa.float16(), dim))


def fixed_list(embedding: npt.NDArray[np.float16]) -> pa.Array:
    """Return embeddings ``(n, d)`` as a column."""
    flat = pa.array(np.ascontiguousarray(embedding, dtype=np.float16).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, embedding.shape[1])


def table_schema(
    classes: Sequence[str], embedding_dim: int | None, evidence: Sequence[str] = (), attributes: Sequence[str] = ()
) -> pa.Schema:
    """Return the full schema: measured columns, ``p_<class>``, evidence, ``attr_<attribute>``, embedding if asked."""
    fields = list(MEASURED)
    after = [f.name for f in fields].index("class_probability") + 1
    added = [*(f"p_{name}" for name in classes), *evidence, *(f"{COLUMN}{name}" for name in attributes)]
    fields[after:after] = [pa.field(name, pa.float32()) for name in added]
    if embedding_dim is not None:
        fields.append(embedding_field(embedding_dim))
    return pa.schema(fields, metadata={b"geo": json.dumps(_GEO).encode()})


_GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {
        "geometry": {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": None},
        "nucleus": {"encoding": "WKB", "geometry_types": ["Polygon", "MultiPolygon"], "crs": None},
    },
}

ROW_GROUP = 16384
"""Most rows of a row group, which readers hold in memory."""

# Values of the other columns are a cell's own: a dictionary of them is thrown away after it was built.
REPEATED = ["kind", "class_name", "block"]

CELLS_FILE: dict[str, Any] = {"compression": "zstd", "use_dictionary": REPEATED}
"""How tables of cells are written."""
