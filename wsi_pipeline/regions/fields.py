"""Fields of a smear: fixed squares, and the order in which a haematologist would visit them. Pure functions.

The squares lie on one lattice of ``regions.field_um``, anchored at the level-0 origin and measured in microns, so they
do not move with the working resolution, the blocks or the workers. Fields are visited as a battlement, the meander of
the manual differential (CLSI H20-A2; Palmer et al., Int J Lab Hematol 37:287, 2015): across the whole width of the
smear in a strip a few fields deep, then back across it in the next strip. White cells are not spread evenly over the
width (large ones drift to the edges), so every strip takes in both edges and the middle.

A target takes the shortest prefix of that order that holds enough white cells. Where the count stops then depends on
the cells that were met, never on which fields look rich.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry import MultiPolygon
from shapely.geometry.base import BaseGeometry

STRIP_FIELDS = 3
"""Depth of the battlement's strips, fields."""

LEAST_INSIDE = 0.5
"""Least share of a field's area inside the regions for the field to be a candidate."""

Axis = Literal["x", "y"]


@dataclass(frozen=True, kw_only=True, order=True)
class Field:
    """A square of the lattice; ``column`` and ``row`` count from the level-0 origin."""

    column: int
    row: int


@dataclass(frozen=True, kw_only=True)
class FieldLattice:
    """Where the fields of a slide lie.

    Attributes
    ----------
    side_um
        Side of a field.
    mpp_x, mpp_y
        Microns per level-0 pixel.
    """

    side_um: float
    mpp_x: float
    mpp_y: float

    def boxes_px0(self, fields: Iterable[Field]) -> npt.NDArray[np.float64]:
        """Return ``(n, 4)`` x0, y0, x1, y1 of fields in level-0 pixels; neighbours share their edges exactly."""
        index = np.array([(f.column, f.row) for f in fields], np.float64).reshape(-1, 2)
        scale = self.side_um / np.array([self.mpp_x, self.mpp_y])
        return np.concatenate([index * scale, (index + 1) * scale], axis=1)

    def area_of(self, fields: Iterable[Field]) -> BaseGeometry:
        """Return the union of fields, level-0 pixels."""
        boxes = self.boxes_px0(fields)
        return shapely.union_all(shapely.box(*boxes.T)) if len(boxes) else MultiPolygon()

    def candidates(self, included: BaseGeometry) -> dict[Field, float]:
        """Return the fields with at least half of their area inside ``included`` (level-0 pixels), and that share.

        A field that lies mostly on glass or over a pen mark shows too little to be judged.
        """
        if included.is_empty:
            return {}
        x0, y0, x1, y1 = (
            np.floor(np.array(included.bounds).reshape(2, 2) * [self.mpp_x, self.mpp_y] / self.side_um)
            .astype(int)
            .ravel()
        )
        fields = [Field(column=column, row=row) for row in range(y0, y1 + 1) for column in range(x0, x1 + 1)]
        squares = shapely.box(*self.boxes_px0(fields).T)
        shapely.prepare(included)
        share = shapely.contains(included, squares).astype(np.float64)
        cut = np.flatnonzero((share == 0) & shapely.intersects(included, squares))
        share[cut] = shapely.area(shapely.intersection(included, squares[cut])) / shapely.area(squares[cut])
        # The slack keeps a field that is half inside by construction from falling to a rounding error.
        return {
            field: float(inside) for field, inside in zip(fields, share, strict=True) if inside >= LEAST_INSIDE - 1e-9
        }


@dataclass(frozen=True, kw_only=True)
class FieldSet:
    """Fields in the order of a battlement, asked for the cells they own.

    Attributes
    ----------
    fields
        In their order.
    side_um
        Side of a field.
    mpp
        Working resolution, um per pixel.
    """

    fields: tuple[Field, ...]
    side_um: float
    mpp: float

    def owner(self, seed_x: npt.NDArray[np.integer], seed_y: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Return the index in ``fields`` of the field that owns each seed, -1 where none does.

        A field owns a cell when the centre of the seed's pixel lies in its half-open square.

        Parameters
        ----------
        seed_x, seed_y
            ``(n,)`` working pixels.
        """
        if not self.fields:
            return np.full(len(seed_x), -1)
        columns, rows = (np.floor((s + 0.5) * self.mpp / self.side_um).astype(np.int64) for s in (seed_x, seed_y))
        # Columns fit in 31 bits on any slide, so a field is one number.
        known = np.array([(f.row << 32) + f.column for f in self.fields], np.int64)
        order = np.argsort(known)
        codes = (rows << 32) + columns
        place = np.minimum(np.searchsorted(known[order], codes), len(known) - 1)
        return np.where(known[order][place] == codes, order[place], -1)

    def owns(self, seed_x: npt.NDArray[np.integer], seed_y: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Return which seeds lie in any of the fields."""
        return self.owner(seed_x, seed_y) >= 0


def battlement(fields: Iterable[Field], along: Axis) -> list[Field]:
    """Return fields in the order of a battlement.

    Strips of ``STRIP_FIELDS`` fields follow one another along the smear's length; each is walked across the width,
    the next one back, and inside a strip each line of fields is walked in the direction opposite to the one before.
    The place of a field depends on its own column and row alone, so a field that is left out moves no other.

    Parameters
    ----------
    along
        The axis of the smear's length.
    """

    def place(field: Field) -> tuple[int, int, int]:
        a, b = (field.column, field.row) if along == "x" else (field.row, field.column)
        strip = a // STRIP_FIELDS
        forth = (strip + b) % 2 == 0
        return strip, b if strip % 2 == 0 else -b, a if forth else -a

    return sorted(fields, key=place)


def shortest_prefix(counts: Sequence[int], target: int) -> int | None:
    """Return how many of the first fields hold ``target`` cells, or None when all together do not."""
    reached = np.flatnonzero(np.cumsum(np.asarray(counts, np.int64)) >= target)
    return int(reached[0]) + 1 if len(reached) else None


FIRST_WAVE_FIELDS = 16
"""About 1 mm2 of fields of 256 um: enough red cells for the slide's dye."""
WAVE_GROWTH = 1.5
"""Each wave over the one before: at most a third of the work is for nothing, and waves stay few."""


def waves(n_fields: int) -> list[range]:
    """Cut ``n_fields`` into waves of growing size, in order; only the number of fields decides."""
    found: list[range] = []
    start, size = 0, float(FIRST_WAVE_FIELDS)
    while start < n_fields:
        stop = min(n_fields, start + int(size))
        found.append(range(start, stop))
        start, size = stop, size * WAVE_GROWTH
    return found
