"""Morphology of the cell in the middle of a crop: found by the shipped smear network, measured as in a run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsi_pipeline.cells.features import NAMES
from wsi_pipeline.cells.morphology import measure_morphology
from wsi_pipeline.errors import DataError

if TYPE_CHECKING:
    from wsi_pipeline.segmentation.models import FlowModel
    from wsi_pipeline.segmentation.segment import SegmentedBlock

MPP = 0.25
"""Resolution the crops must have, um per pixel: that of the network."""
SEGMENTED_BY = "compact-smear"
REACH_UM = 4.0
"""A cell that covers no pixel of the middle is taken when it comes as near as this."""
_STRIDE = 32


class CropFeatures:
    """Measures cells in crops; each crop by itself, so that a cell's features do not depend on its neighbours.

    Parameters
    ----------
    device
        Where the segmentation runs.
    """

    def __init__(self, device: str = "cpu") -> None:
        from wsi_pipeline.config import load_config
        from wsi_pipeline.segmentation.models import load_model

        self._config = load_config("blood_smear", {"segmentation.model": SEGMENTED_BY, "segmentation.mpp": MPP})
        self._model: FlowModel = load_model(SEGMENTED_BY, specimen="blood_smear", device=device)

    @property
    def sha256(self) -> str:
        """SHA-256 of the segmentation network."""
        return self._model.sha256

    def measure(self, crops: npt.NDArray[np.uint8], background: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the features of :data:`wsi_pipeline.cells.features.FEATURES`, ``(n, len(NAMES))``.

        A row is NaN where no cell was found in the middle.

        Parameters
        ----------
        crops
            uint8 ``(n, side, side, 3)`` at 0.25 um per pixel.
        background
            uint8 ``(n, 3)``.
        """
        if crops.ndim != 4 or crops.dtype != np.uint8 or crops.shape[1] != crops.shape[2]:
            raise DataError(f"crops must be uint8 (n, side, side, 3), found {crops.dtype} {crops.shape}")
        rows = np.full((len(crops), len(NAMES)), np.nan, np.float32)
        for i, (crop, light) in enumerate(zip(crops, background, strict=True)):
            if (found := self.masks(crop)) is not None:
                alone, nuclear = found[0].astype(np.int32), found[1]
                rows[i] = measure_morphology(alone, crop, mpp=MPP, background=np.maximum(light, 1), nucleus=nuclear)[0]
        return rows

    def masks(self, crop: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]] | None:
        """Return where the cell in the middle of a crop is, and where nuclear stain is; None without a cell.

        Parameters
        ----------
        crop
            uint8 ``(side, side, 3)`` at 0.25 um per pixel.
        """
        found = self.segment(crop)
        labels = found.instances.labels
        cell = middle_cell(labels)
        return None if cell is None else (labels == cell, found.nuclear)

    def segment(self, crop: npt.NDArray[np.uint8]) -> SegmentedBlock:
        """Return the cells of one crop, uint8 ``(side, side, 3)`` at 0.25 um per pixel."""
        import shapely

        from wsi_pipeline.segmentation.batching import Batch
        from wsi_pipeline.segmentation.normalise import colour_histogram, normalisation_from_histogram
        from wsi_pipeline.segmentation.segment import segment_block
        from wsi_pipeline.tiling import TileLattice, plan_blocks

        side = crop.shape[0]
        whole = shapely.box(0, 0, side, side)
        (block,) = plan_blocks((side, side), whole, core_px=side, halo=side)
        return segment_block(
            lambda box: _read(crop, box),
            block,
            lattice=TileLattice(
                tile_px=math.ceil(side / _STRIDE) * _STRIDE, overlap_px=self._model.overlap_px, width=side, height=side
            ),
            dilated_region=whole,
            normalisation=normalisation_from_histogram(colour_histogram(crop)),
            model=self._model,
            config=self._config.segmentation,
            specimen=self._config.specimen,
            batch=Batch.of(1),
        )


def _read(crop: npt.NDArray[np.uint8], box: object) -> npt.NDArray[np.uint8]:
    """Return a box of a crop, white outside of it."""
    x0, y0, x1, y1 = (int(getattr(box, name)) for name in ("x0", "y0", "x1", "y1"))
    side = crop.shape[0]
    out = np.full((y1 - y0, x1 - x0, 3), 255, np.uint8)
    top, left, bottom, right = max(y0, 0), max(x0, 0), min(y1, side), min(x1, side)
    if bottom > top and right > left:
        out[top - y0 : bottom - y0, left - x0 : right - x0] = crop[top:bottom, left:right]
    return out


def middle_cell(labels: npt.NDArray[np.int32]) -> int | None:
    """Return the label in the middle, or the nearest one within reach."""
    side = labels.shape[0]
    axis = np.arange(side) + 0.5 - side / 2
    distance = np.hypot(axis[:, None], axis[None, :])
    inside = np.where(labels > 0, distance, np.inf)
    place = int(inside.argmin())
    return int(labels.flat[place]) if inside.flat[place] * MPP <= REACH_UM else None
