"""Labelled cells a classifier was trained on, kept beside its weights: neighbours of a new cell, and a map of them.

The map is a UMAP of the reference cells (McInnes et al., arXiv 1802.03426), made once. What is kept of it are the
coordinates, not the model: a new cell goes to the mean of its nearest reference cells, weighted by likeness, so its
place depends on nothing but itself.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsi_pipeline.cells.out_of_distribution import in_batches
from wsi_pipeline.errors import DataError

THUMB_PX = 48
"""Side of a reference cell's picture; a multiple of JPEG's 16-pixel blocks, so that neighbours do not bleed."""

NEIGHBOURS = 5
_PLACED_BY = 10
_SHEET_COLUMNS = 32


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The ``k`` nearest reference cells of ``n`` cells, the nearest first.

    Parameters
    ----------
    index
        int64 ``(n, k)``: which reference cells.
    distance
        float32 ``(n, k)``: cosine distance of the embeddings, 0 (same direction) to 2.
    classes, sources
        ``(n, k)``: class and data set of each.
    """

    index: npt.NDArray[np.int64]
    distance: npt.NDArray[np.float32]
    classes: npt.NDArray[np.str_]
    sources: npt.NDArray[np.str_]

    def agreement(self, answered: npt.NDArray[np.str_]) -> npt.NDArray[np.float32]:
        """Return the share of each cell's neighbours that are of the class answered, ``(n,)``."""
        return (self.classes == answered[:, None]).mean(axis=1).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Reference cells.

    Parameters
    ----------
    embedding
        float16 ``(m, d)``.
    place
        float32 ``(m, 2)``: x and y on the map, both within 0 to 1.
    class_index, source_index
        uint8 ``(m,)`` into ``classes`` and ``sources``.
    sheet
        uint8: a JPEG of all pictures, ``THUMB_PX`` wide each, 32 a row; empty where none may be kept.
    classes, sources
        Class codes, and names of the data sets.
    """

    embedding: npt.NDArray[np.float16]
    place: npt.NDArray[np.float32]
    class_index: npt.NDArray[np.uint8]
    source_index: npt.NDArray[np.uint8]
    sheet: npt.NDArray[np.uint8]
    classes: tuple[str, ...]
    sources: tuple[str, ...]

    def __post_init__(self) -> None:
        m = len(self.embedding)
        if m == 0 or not m == len(self.place) == len(self.class_index) == len(self.source_index):
            raise DataError("reference cells need as many embeddings, places, classes and sources, and at least one")
        unit = self.embedding.astype(np.float64)
        unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
        object.__setattr__(self, "_unit", np.ascontiguousarray(unit.T))
        object.__setattr__(self, "_pictures", None)

    def __len__(self) -> int:
        return len(self.embedding)

    @property
    def class_names(self) -> npt.NDArray[np.str_]:
        """Class of each cell, ``(m,)``."""
        return np.array(self.classes)[self.class_index]

    @property
    def source_names(self) -> npt.NDArray[np.str_]:
        """Data set of each cell, ``(m,)``."""
        return np.array(self.sources)[self.source_index]

    def to_tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays by name."""
        return {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def of_tensors(
        cls, tensors: Mapping[str, npt.NDArray[Any]], classes: tuple[str, ...], sources: tuple[str, ...]
    ) -> Reference:
        """Rebuild from :meth:`to_tensors`; a missing one raises KeyError."""
        return cls(**{name: tensors[name] for name in _ARRAYS}, classes=classes, sources=sources)

    def neighbours(self, embedding: npt.NDArray[np.float16], k: int = NEIGHBOURS) -> Neighbours:
        """Return the nearest reference cells of embeddings ``(n, d)``; of equally near ones the first.

        Raises
        ------
        DataError
            ``k`` is not between 1 and the number of reference cells.
        """
        if not 1 <= k <= len(self):
            raise DataError(f"{k} neighbours asked for; 1 to {len(self)} are possible")
        index, distance = self._nearest(embedding, k)
        return Neighbours(
            index=index,
            distance=distance.astype(np.float32),
            classes=self.class_names[index],
            sources=self.source_names[index],
        )

    def places(self, embedding: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
        """Return where embeddings ``(n, d)`` lie on the map, ``(n, 2)``.

        Notes
        -----
        The weight of a neighbour falls off as in UMAP: 1 for the nearest, then exponentially with what is further,
        measured in mean excess of the neighbours' distances.
        """
        index, distance = self._nearest(embedding, min(_PLACED_BY, len(self)))
        excess = distance - distance[:, :1]
        weight = np.exp(-excess / np.maximum(excess.mean(axis=1, keepdims=True), 1e-9))
        near = self.place.astype(np.float64)[index]
        return ((near * weight[..., None]).sum(axis=1) / weight.sum(axis=1)[:, None]).astype(np.float32)

    def picture(self, index: int) -> npt.NDArray[np.uint8] | None:
        """Return the picture of a reference cell, uint8 ``(THUMB_PX, THUMB_PX, 3)``; None where none was kept."""
        if not len(self.sheet):
            return None
        pictures = self.__dict__["_pictures"]
        if pictures is None:
            pictures = np.asarray(Image.open(io.BytesIO(self.sheet.tobytes())).convert("RGB"))
            object.__setattr__(self, "_pictures", pictures)
        row, column = divmod(index, _SHEET_COLUMNS)
        y, x = row * THUMB_PX, column * THUMB_PX
        found: npt.NDArray[np.uint8] = pictures[y : y + THUMB_PX, x : x + THUMB_PX]
        return found

    def _nearest(
        self, embedding: npt.NDArray[np.float16], k: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        unit: npt.NDArray[np.float64] = self.__dict__["_unit"]

        def nearest(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            length = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
            # Rounded, so that which of two equally near cells is first does not hang on the last bit.
            distance = np.round(1 - (rows / length) @ unit, 9)
            order = np.argsort(distance, axis=1, kind="stable")[:, :k]
            return np.concatenate([order, np.take_along_axis(distance, order, axis=1)], axis=1)

        found = in_batches(nearest, embedding)
        return found[:, :k].astype(np.int64), np.clip(found[:, k:], 0, 2)


_ARRAYS = ("embedding", "place", "class_index", "source_index", "sheet")


def picture_sheet(pictures: npt.NDArray[np.uint8], *, quality: int = 78) -> npt.NDArray[np.uint8]:
    """Return pictures uint8 ``(m, THUMB_PX, THUMB_PX, 3)`` as the bytes of one JPEG: one header for all."""
    rows = -(-len(pictures) // _SHEET_COLUMNS)
    sheet = np.full((rows * THUMB_PX, _SHEET_COLUMNS * THUMB_PX, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        row, column = divmod(i, _SHEET_COLUMNS)
        sheet[row * THUMB_PX : (row + 1) * THUMB_PX, column * THUMB_PX : (column + 1) * THUMB_PX] = picture
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "JPEG", quality=quality, optimize=True)
    return np.frombuffer(buffer.getvalue(), np.uint8).copy()
