"""The cell in the middle of an image, found and measured as on a slide."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from wsi_pipeline.cells.crop_features import MPP, CropFeatures, middle_cell
from wsi_pipeline.cells.measure import measure_block
from wsi_pipeline.cells.schema import MEASURED
from wsi_pipeline.cells.windows import resample
from wsi_pipeline.units import FrameTransform

MAX_SIDE_UM = 40.0
"""Largest part of an image that is searched, the largest cell of a smear; megakaryocytes are cut."""

_NO_PLACE = ("geometry", "x_px0", "y_px0", "x_um", "y_um", "nucleus", "block", "seed_x", "seed_y")


class ImageMeasurer:
    """Finds and measures the cell in the middle of an image, with the network of ``compact-smear``.

    Parameters
    ----------
    features
        The network, loaded.
    """

    def __init__(self, features: CropFeatures) -> None:
        self._features = features

    @property
    def sha256(self) -> str:
        """SHA-256 of the segmentation network."""
        return self._features.sha256

    def measure(self, pixels: npt.NDArray[np.uint8], mpp: float, background: npt.NDArray[np.uint8]) -> pa.Table:
        """Return one row in the schema ``MEASURED``: measures of a nucleated cell, no place.

        All is null where no cell was found in the middle.

        Parameters
        ----------
        pixels
            uint8 ``(h, w, 3)``.
        mpp
            Microns per pixel.
        background
            ``(3,)`` uint8 colour of empty glass, to which optical densities are relative.
        """
        height, width = pixels.shape[:2]
        side = max(1, math.floor(min(height, width, MAX_SIDE_UM / mpp) * mpp / MPP))
        crop = resample(pixels, width / 2, height / 2, side=side, scale=MPP / mpp)
        found = self._features.segment(crop)
        cell = middle_cell(found.instances.labels)
        if cell is None:
            return MEASURED.empty_table().from_pylist([{}], schema=MEASURED)
        n = len(found.instances.seed_x)
        # The images are of white cells, also where a network that sees the outline alone would say otherwise.
        white = replace(found, kind=np.full(n, "white", object))
        rows = measure_block(
            white,
            frame=FrameTransform(scale_x=1.0, scale_y=1.0),
            mpp=MPP,
            slide_size=(side, side),
            region_px0=shapely.box(-1, -1, side + 1, side + 1),
            fingerprint="",
            background=background,
        )
        row = rows.slice(cell - 1, 1)
        none = [pa.nulls(1, row.schema.field(name).type) for name in _NO_PLACE]
        for name, value in zip(_NO_PLACE, none, strict=True):
            row = row.set_column(row.schema.get_field_index(name), row.schema.field(name), value)
        return row.replace_schema_metadata(None)
