"""Measure the cells of a block: outline, place, colour, and all of :mod:`wsi_pipeline.cells.morphology`.

Optical densities are relative to the empty glass of the slide, never of the block, and a cell's sums run over its own
pixels in raster order, so no measure depends on the cut.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.cells.features import FEATURES
from wsi_pipeline.cells.morphology import measure_morphology
from wsi_pipeline.cells.schema import EMBEDDING, KIND_CLASS, MEASURED, TOO_LARGE, TOO_LARGE_SEEDS, fixed_list
from wsi_pipeline.segmentation.instances import Instances, flood
from wsi_pipeline.segmentation.outlines import Geometries, gather, mask_polygons, region_polygons
from wsi_pipeline.segmentation.segment import SegmentedBlock
from wsi_pipeline.units import FrameTransform

CELL_NAMESPACE = uuid.UUID("6b2c5f0e-6a0b-5d55-9a43-0d4f3f1c7e21")
"""Namespace of cell ids: UUIDv5 of slide fingerprint and seed."""

Embed = Callable[[Sequence[int]], npt.NDArray[np.float16]]

_MIN_NUCLEUS_PART_UM2 = 1.0


def cell_id(fingerprint: str, seed_x: int, seed_y: int) -> str:
    """Return the id of a cell: the same in every run of one configuration on one slide."""
    return str(uuid.uuid5(CELL_NAMESPACE, f"{fingerprint}/{seed_x}/{seed_y}"))


def measure_block(
    segmented: SegmentedBlock,
    *,
    frame: FrameTransform,
    mpp: float,
    slide_size: tuple[int, int],
    region_px0: BaseGeometry,
    fingerprint: str,
    background: npt.NDArray[np.uint8],
    embed: Embed | None = None,
) -> pa.Table:
    """Return the rows of a block's cells whose seed lies in the region, in the schema ``MEASURED``.

    The schema's metadata say under :data:`~wsi_pipeline.cells.schema.TOO_LARGE` how many of them reach the largest
    diameter, and under :data:`~wsi_pipeline.cells.schema.TOO_LARGE_SEEDS` which.

    Parameters
    ----------
    frame
        Working pixels to level-0 pixels.
    mpp
        Working resolution, um per pixel.
    slide_size
        Width and height of the slide, working pixels.
    region_px0
        Where cells are wanted, level-0 pixels.
    background
        ``(3,)`` uint8 colour of empty glass on the slide, to which optical densities are relative.
    embed
        Returns the embeddings of instances; they are a column after those of the schema.
    """
    cells = segmented.instances
    window = segmented.block.window
    seed_x, seed_y = cells.seed_x + window.x0, cells.seed_y + window.y0
    seeds_px0 = frame.to_px0(np.stack([seed_x, seed_y], axis=1) + 0.5)
    shapely.prepare(region_px0)
    rows = np.flatnonzero(shapely.intersects_xy(region_px0, seeds_px0[:, 0], seeds_px0[:, 1]))
    if rows.size == 0:
        return with_embedding(MEASURED.empty_table(), None if embed is None else embed(()))
    corner = (float(window.x0), float(window.y0))
    outlines = region_polygons(cells.labels, cells.boxes, corner)[rows]
    polygons = shapely.transform(outlines, frame.to_px0)
    nucleus_labels, nucleus_px = _nucleus_labels(
        cells.labels, cells.boxes, segmented.nuclear, segmented.nucleated, _MIN_NUCLEUS_PART_UM2 / mpp**2
    )
    nucleus_px = nucleus_px[rows].astype(np.float64)
    kind = segmented.kind[rows]
    no_nucleus = ~segmented.nucleated[rows]
    morphology = measure_morphology(
        cells.labels,
        segmented.rgb,
        mpp=mpp,
        background=np.maximum(background, 1),
        nucleus=nucleus_labels > 0,
        boxes=cells.boxes.astype(np.int64),
    )[rows]
    nuclei = _inside(
        shapely.transform(mask_polygons(nucleus_labels, cells.boxes, corner)[rows], frame.to_px0), polygons
    )
    area_px = cells.area_px[rows].astype(np.float64)
    moments = cells.moments[rows].astype(np.float64)
    centre = np.stack([moments[:, 1] / area_px + seed_x[rows], moments[:, 0] / area_px + seed_y[rows]], axis=1) + 0.5
    centre_px0 = frame.to_px0(centre)
    columns: dict[str, Any] = {
        "cell_id": [
            # A megakaryocyte found by a network of its own may share its seed with a nucleus of the other.
            cell_id(f"{fingerprint}/megakaryocyte" if k == "megakaryocyte" and own else fingerprint, x, y)
            for x, y, k, own in zip(seed_x[rows], seed_y[rows], kind, segmented.nucleated[rows], strict=True)
        ],
        "geometry": shapely.to_wkb(polygons),
        "x_px0": centre_px0[:, 0],
        "y_px0": centre_px0[:, 1],
        "x_um": centre[:, 0] * mpp,
        "y_um": centre[:, 1] * mpp,
        "kind": kind,
        "class_name": [KIND_CLASS[k] for k in kind],
        "class_probability": segmented.kind_support[rows],
        "mean_red": segmented.mean_rgb[rows, 0],
        "mean_green": segmented.mean_rgb[rows, 1],
        "mean_blue": segmented.mean_rgb[rows, 2],
        # Of a megakaryocyte of which the nucleus alone was delineated, that is what is measured.
        **morphology_columns(morphology, np.where(no_nucleus & (kind == "megakaryocyte"), "nucleus", kind)),
        # Such a cell in which no nucleus was seen has none of zero size.
        "nucleus_area_um2": pa.array(nucleus_px * mpp**2, mask=no_nucleus, type=pa.float32()),
        "nc_ratio": pa.array(nucleus_px / area_px, mask=no_nucleus, type=pa.float32()),
        "cell_probability": segmented.cell_probability[rows],
        "flow_error": cells.flow_error[rows],
        "nucleus": shapely.to_wkb(nuclei),
        "block": [segmented.block.name] * len(rows),
        "truncated": _truncated(cells, rows, window.x0, window.y0, slide_size, polygons, region_px0),
        "seed_x": seed_x[rows],
        "seed_y": seed_y[rows],
    }
    arrays = [
        values
        if isinstance(values, pa.Array)
        else pa.array(np.asarray(values, dtype=_numpy_type(field.type)), field.type)
        for field, values in ((field, columns[field.name]) for field in MEASURED)
    ]
    large = rows[cells.too_large[rows]]
    seeds = np.stack([seed_x[large], seed_y[large]], axis=1).tolist()
    metadata = {TOO_LARGE: str(len(large)), TOO_LARGE_SEEDS: json.dumps(seeds)}
    table = pa.Table.from_arrays(arrays, schema=MEASURED.with_metadata(metadata))
    return with_embedding(table, None if embed is None else embed(rows.tolist()))


def with_embedding(table: pa.Table, embedding: npt.NDArray[np.float16] | None) -> pa.Table:
    """Return a table with a column of embeddings ``(n, d)`` at its end; as it is without any."""
    return table if embedding is None else table.append_column(EMBEDDING, fixed_list(embedding))


def morphology_columns(values: npt.NDArray[np.float32], kind: npt.NDArray[np.object_]) -> dict[str, pa.Array]:
    """Return the features as columns, null where one has no value or does not apply to the kind.

    The pallor is kept of white cells too, until the whole slide has told which of them are red
    (:func:`~wsi_pipeline.cells.merge.merge_blocks`).

    Parameters
    ----------
    values
        ``(n, len(FEATURES))`` from :func:`~wsi_pipeline.cells.morphology.measure_morphology`.
    kind
        ``(n,)`` kind of each cell.
    """
    columns = {}
    for feature, column in zip(FEATURES, values.T, strict=True):
        kinds = (*feature.kinds, "white") if "red" in feature.kinds else feature.kinds
        absent = ~np.isfinite(column)
        if kinds:
            absent |= ~np.isin(kind.astype(str), kinds)
        columns[feature.name] = pa.array(np.ascontiguousarray(column), mask=absent, type=pa.float32())
    return columns


def _numpy_type(arrow: pa.DataType) -> Any:
    return object if pa.types.is_string(arrow) or pa.types.is_binary(arrow) else arrow.to_pandas_dtype()


@numba.njit(cache=True, nogil=True)
def _nucleus_labels(
    labels: np.ndarray, boxes: np.ndarray, nuclear: np.ndarray, nucleated: np.ndarray, least_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nuclei of cells as labels 1..n of their cells, and the ``(n,)`` pixels of each.

    Only cells marked by ``nucleated`` are looked at.

    Holes of the nuclear stain inside a cell are filled, parts below ``least_px`` dropped; lobes may lie apart.
    """
    nuclei = np.zeros(labels.shape, np.int32)
    pixels = np.zeros(len(boxes), np.int64)
    for i in range(len(boxes)):
        if not nucleated[i]:
            continue
        y0, x0, y1, x1 = boxes[i]
        inside = labels[y0:y1, x0:x1] == i + 1
        stain = np.zeros((y1 - y0 + 2, x1 - x0 + 2), np.bool_)
        stain[1:-1, 1:-1] = nuclear[y0:y1, x0:x1] & inside
        left = inside & ~flood(~stain, 0, 0)[1:-1, 1:-1]
        for y in range(left.shape[0]):
            for x in range(left.shape[1]):
                if left[y, x]:
                    part = flood(left, y, x)
                    left &= ~part
                    n = part.sum()
                    if n >= least_px:
                        pixels[i] += n
                        for v in range(part.shape[0]):
                            for u in range(part.shape[1]):
                                if part[v, u]:
                                    nuclei[y0 + v, x0 + u] = i + 1
    return nuclei, pixels


def _inside(nuclei: Geometries, cells: Geometries) -> Geometries:
    """Cut off what the simplification of two outlines let stick out of the cell; None stays None."""
    out = np.flatnonzero(~shapely.is_missing(nuclei) & ~shapely.covers(cells, nuclei))
    # Where the rings cross at a shallow angle the cut leaves lines and points beside the areas.
    parts, of = shapely.get_parts(shapely.intersection(nuclei[out], cells[out]), return_index=True)
    areas = shapely.area(parts) > 0
    inside = nuclei.copy()
    inside[out] = gather(parts[areas], of[areas], len(out))
    return inside


def _truncated(
    cells: Instances,
    rows: npt.NDArray[np.intp],
    x: int,
    y: int,
    slide_size: tuple[int, int],
    polygons: npt.NDArray[np.object_],
    region_px0: BaseGeometry,
) -> npt.NDArray[np.bool_]:
    """Too large, at the slide's edge, or over the region's edge; never because of a block."""
    boxes = cells.boxes[rows]
    at_edge = (
        (boxes[:, 0] + y <= 0)
        | (boxes[:, 1] + x <= 0)
        | (boxes[:, 2] + y >= slide_size[1])
        | (boxes[:, 3] + x >= slide_size[0])
    )
    return cells.too_large[rows] | at_edge | ~shapely.contains_properly(region_px0, polygons)
