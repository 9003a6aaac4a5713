"""Choose what a report shows of a cell table, in two streamed passes.

The choice is fixed by the table: no random numbers, and not the prettiest. A class shows its most and its
least confident cells; fields are taken at fixed ranks of crowding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely

from wsi_pipeline.exports._stream import floats, geometries, iter_cells, polygonal, strings
from wsi_pipeline.sentences import say

HALF_GALLERY = 12
NUCLEATED = ("white", "nucleus", "megakaryocyte")

_FIELD_RANKS = (
    (0.75, say("a crowded field (75th percentile)")),
    (0.5, say("the median field")),
    (0.25, say("a sparse field (25th percentile)")),
)
_LIGHT = ("x_px0", "y_px0", "kind", "class_name")
_SCORES = ("class_probability", "cell_probability", "area_um2", "truncated")


@dataclass(frozen=True, kw_only=True)
class Picked:
    """A cell of the gallery. ``probability`` is None where no classifier ran; ``score`` orders the cells."""

    row: int
    score: float
    x_px0: float
    y_px0: float
    probability: float | None
    area_um2: float | None
    truncated: bool


@dataclass(kw_only=True)
class Gallery:
    """Cells of one class: ``high`` begins with the most confident, ``low`` with the least."""

    code: str
    kind: str
    n: int = 0
    classified: bool = False
    high: list[Picked] = field(default_factory=list)
    low: list[Picked] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class FieldPick:
    """A rectangle to look at, level-0 pixels, why this one, and the cells centred in it."""

    x0: float
    y0: float
    x1: float
    y1: float
    why: str
    n_cells: int


@dataclass(kw_only=True)
class Dots:
    """Cells on the overview: index into ``codes`` at each overview pixel, -1 where there is none."""

    codes: list[str]
    image: npt.NDArray[np.int16]
    n: int = 0


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What pass one found."""

    n_cells: int
    galleries: tuple[Gallery, ...]
    fields: tuple[FieldPick, ...]
    dots: Dots


@dataclass(frozen=True, kw_only=True)
class OutlinedCell:
    """A cell of a field or gallery, outline in level-0 pixels."""

    code: str
    probability: float | None
    outline: shapely.Polygon


def select(
    cells: Path,
    *,
    size_px0: tuple[int, int],
    field_px0: tuple[float, float],
    overview_origin_px0: tuple[float, float],
    overview_scale: tuple[float, float],
    overview_size: tuple[int, int],
) -> Selection:
    """Walk the table once and choose gallery, fields and dots.

    Parameters
    ----------
    size_px0
        Slide size; fields are kept inside it.
    field_px0
        Width and height of a field.
    overview_origin_px0, overview_scale, overview_size
        Level-0 position of the overview's corner, level-0 pixels per overview pixel, and its (w, h).
    """
    galleries: dict[str, Gallery] = {}
    crowding: dict[tuple[int, int], list[int]] = {}
    dots = Dots(codes=[], image=np.full(overview_size[::-1], -1, dtype=np.int16))
    total = 0
    for first, batch in iter_cells(cells, _LIGHT, _SCORES):
        total += batch.num_rows
        x, y = floats(batch, "x_px0"), floats(batch, "y_px0")
        kinds = np.asarray(strings(batch, "kind"), dtype=object)
        codes = np.asarray(strings(batch, "class_name"), dtype=object)
        nucleated = np.isin(kinds, NUCLEATED)
        _count_fields(crowding, x, y, nucleated, field_px0)
        _draw_dots(
            dots,
            x=x,
            y=y,
            codes=codes,
            nucleated=nucleated,
            origin_px0=overview_origin_px0,
            scale=overview_scale,
        )
        columns = {name: floats(batch, name) for name in _SCORES}
        for code in np.unique(codes[codes != ""]):
            here = np.flatnonzero(codes == code)
            gallery = galleries.setdefault(str(code), Gallery(code=str(code), kind=str(kinds[here[0]])))
            _add(gallery, here, first=first, x=x, y=y, columns=columns)
    return Selection(
        n_cells=total,
        galleries=tuple(galleries.values()),
        fields=_choose_fields(crowding, field_px0, size_px0),
        dots=dots,
    )


def _add(
    gallery: Gallery,
    here: npt.NDArray[np.int64],
    *,
    first: int,
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    columns: Mapping[str, npt.NDArray[np.float64]],
) -> None:
    probability = columns["class_probability"][here]
    gallery.n += len(here)
    gallery.classified = gallery.classified or bool(np.isfinite(probability).any())
    # Kinds without a classifier are ordered by the segmentation's own score.
    score = np.where(np.isfinite(probability), probability, columns["cell_probability"][here])
    score = np.nan_to_num(score, nan=0.0)
    for kept, sign in ((gallery.high, -1.0), (gallery.low, 1.0)):
        for i in np.lexsort((here, sign * score))[:HALF_GALLERY]:
            j = here[i]
            kept.append(
                Picked(
                    row=int(first + j),
                    score=float(score[i]),
                    x_px0=float(x[j]),
                    y_px0=float(y[j]),
                    probability=_finite(columns["class_probability"][j]),
                    area_um2=_finite(columns["area_um2"][j]),
                    truncated=bool(columns["truncated"][j] == 1),
                )
            )
        kept.sort(key=_by_score(sign))
        del kept[HALF_GALLERY:]


def _by_score(sign: float) -> Callable[[Picked], tuple[float, int]]:
    return lambda cell: (sign * cell.score, cell.row)


def shown(gallery: Gallery) -> tuple[list[Picked], list[Picked]]:
    """Return the most confident cells, and the least confident ones that are not among them."""
    seen = {cell.row for cell in gallery.high}
    return gallery.high, [cell for cell in gallery.low if cell.row not in seen]


def _count_fields(
    crowding: dict[tuple[int, int], list[int]],
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    nucleated: npt.NDArray[np.bool_],
    field_px0: tuple[float, float],
) -> None:
    squares = np.floor(np.column_stack([y / field_px0[1], x / field_px0[0]])).astype(np.int64)
    found, inverse = np.unique(squares, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    everything = np.bincount(inverse, minlength=len(found))
    with_nucleus = np.bincount(inverse, weights=nucleated, minlength=len(found)).astype(np.int64)
    for (row, column), n, k in zip(found.tolist(), everything.tolist(), with_nucleus.tolist(), strict=True):
        entry = crowding.setdefault((row, column), [0, 0])
        entry[0] += n
        entry[1] += k


def _choose_fields(
    crowding: Mapping[tuple[int, int], list[int]], field_px0: tuple[float, float], size_px0: tuple[int, int]
) -> tuple[FieldPick, ...]:
    if not crowding:
        return ()
    # Rectangles that stick out of the slide are emptier than they look; use them only where there are no others.
    whole = [
        s for s in crowding if (s[1] + 1) * field_px0[0] <= size_px0[0] and (s[0] + 1) * field_px0[1] <= size_px0[1]
    ]
    squares = sorted(whole or crowding)
    richest = min(squares, key=lambda s: (-crowding[s][1], -crowding[s][0], s))
    chosen = {richest: say("the field with the most nucleated cells")}
    by_crowding = sorted(squares, key=lambda s: (crowding[s][0], s))
    for rank, why in _FIELD_RANKS:
        chosen.setdefault(by_crowding[min(len(by_crowding) - 1, int(rank * len(by_crowding)))], why)
    picks = []
    for (row, column), why in chosen.items():
        x0, y0 = max(0.0, column * field_px0[0]), max(0.0, row * field_px0[1])
        x1, y1 = min(x0 + field_px0[0], size_px0[0]), min(y0 + field_px0[1], size_px0[1])
        if x1 > x0 and y1 > y0:
            picks.append(FieldPick(x0=x0, y0=y0, x1=x1, y1=y1, why=why, n_cells=crowding[row, column][0]))
    return tuple(picks)


def _draw_dots(
    dots: Dots,
    *,
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    codes: npt.NDArray[np.object_],
    nucleated: npt.NDArray[np.bool_],
    origin_px0: tuple[float, float],
    scale: tuple[float, float],
) -> None:
    height, width = dots.image.shape
    column = np.floor((x - origin_px0[0]) / scale[0]).astype(np.int64)
    row = np.floor((y - origin_px0[1]) / scale[1]).astype(np.int64)
    use = np.flatnonzero(nucleated & (column >= 0) & (column < width) & (row >= 0) & (row < height))
    for code in np.unique(codes[use]):
        if code not in dots.codes:
            dots.codes.append(str(code))
        here = use[codes[use] == code]
        dots.image[row[here], column[here]] = dots.codes.index(str(code))
    dots.n += len(use)


def cells_in_fields(
    cells: Path, fields: tuple[FieldPick, ...], margin_px0: float, rows: frozenset[int]
) -> tuple[list[list[OutlinedCell]], dict[int, OutlinedCell]]:
    """Walk the table a second time for outlines.

    Parameters
    ----------
    margin_px0
        Largest distance from a cell's centre to its edge; cells centred so far outside are looked at too.
    rows
        Rows of the table whose outline is wanted.

    Returns
    -------
    tuple
        The cells that touch each field, in table order, and the wanted rows.
    """
    inside: list[list[OutlinedCell]] = [[] for _ in fields]
    wanted: dict[int, OutlinedCell] = {}
    for first, batch in iter_cells(cells, (*_LIGHT, "geometry"), ("class_probability",)):
        x, y = floats(batch, "x_px0"), floats(batch, "y_px0")
        hits = []
        for pick in fields:
            hits.append(
                (x > pick.x0 - margin_px0) & (x < pick.x1 + margin_px0)
                & (y > pick.y0 - margin_px0) & (y < pick.y1 + margin_px0)
            )  # fmt: skip
        listed = np.array([i in rows for i in range(first, first + batch.num_rows)], dtype=bool)
        needed = np.flatnonzero(np.logical_or.reduce([listed, *hits]))
        if not len(needed):
            continue
        part = batch.take(needed)
        shapes = geometries(part.column("geometry"), cells, first)
        codes, probabilities = strings(part, "class_name"), floats(part, "class_probability")
        for i, shape, code, probability in zip(needed.tolist(), shapes, codes, probabilities, strict=True):
            outline = polygonal(shape)
            if outline is None:
                continue
            cell = OutlinedCell(code=code, probability=_finite(probability), outline=outline)
            if listed[i]:
                wanted[first + i] = cell
            for pick, hit, found in zip(fields, hits, inside, strict=True):
                x0, y0, x1, y1 = outline.bounds
                if hit[i] and x1 > pick.x0 and x0 < pick.x1 and y1 > pick.y0 and y0 < pick.y1:
                    found.append(cell)
    return inside, wanted


@dataclass(frozen=True, kw_only=True)
class NamedCell:
    """A cell asked for by its id."""

    code: str
    picked: Picked
    outlined: OutlinedCell | None


def cells_by_id(cells: Path, ids: Collection[str]) -> dict[str, NamedCell]:
    """Walk the table for cells by their ids; one that is not there has no entry."""
    wanted, found = set(ids), {}
    for first, batch in iter_cells(cells, ("cell_id", *_LIGHT, "geometry"), _SCORES) if wanted else ():
        here = [i for i, cell_id in enumerate(strings(batch, "cell_id")) if cell_id in wanted]
        if not here:
            continue
        part = batch.take(here)
        columns = {name: floats(part, name) for name in (*_SCORES, "x_px0", "y_px0")}
        codes, shapes = strings(part, "class_name"), geometries(part.column("geometry"), cells, first)
        for i, (row, cell_id) in enumerate(zip(here, strings(part, "cell_id"), strict=True)):
            probability = _finite(columns["class_probability"][i])
            outline = polygonal(shapes[i])
            picked = Picked(
                row=first + row,
                score=probability or 0.0,
                x_px0=float(columns["x_px0"][i]),
                y_px0=float(columns["y_px0"][i]),
                probability=probability,
                area_um2=_finite(columns["area_um2"][i]),
                truncated=bool(columns["truncated"][i] == 1),
            )
            found[cell_id] = NamedCell(
                code=codes[i],
                picked=picked,
                outlined=None
                if outline is None
                else OutlinedCell(code=codes[i], probability=probability, outline=outline),
            )
    return found


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
