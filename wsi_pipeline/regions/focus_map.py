"""Blur over a smear, sampled: one window in every square of 512 um, four where it may be out of focus.

Focus changes over millimetres (the tilt of the slide, the focus points of the scanner), so that a sample tells.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from wsi_pipeline.regions.focus import COARSEST_MPP, blur_from_energies, edge_energies
from wsi_pipeline.regions.morphology import Mask, grow
from wsi_pipeline.regions.squares import RedCellOd, density, nuclear_mask
from wsi_pipeline.slides import Slide
from wsi_pipeline.units import Box, FrameTransform

_FOCUS_MPP = 0.5
_WINDOW_UM = 128.0
_GROUP_SQUARES = 8
_DOUBTFUL = 0.6
_NUCLEUS_MARGIN_UM = 3.0
NO_EDGES_UM = 10.0
"""Blur of covered squares in which no edge is left."""


def can_judge_focus(slide: Slide) -> bool:
    """Tell whether the slide's pixels are fine enough."""
    return max(slide.mpp.x, slide.mpp.y) <= COARSEST_MPP


def measure_blur(
    slide: Slide,
    wanted: Mask,
    frame: FrameTransform,
    *,
    glass: tuple[int, int, int],
    single: RedCellOd,
    max_blur_um: float,
) -> npt.NDArray[np.float64]:
    """Return the blur of squares in um, ``(rows, columns)``; NaN where not wanted.

    Parameters
    ----------
    wanted
        Squares of a lattice with red cells.
    frame
        From squares to level-0 pixels.
    glass, single
        Colour of empty glass, and what one red cell absorbs.
    max_blur_um
        Near and above this, a group of squares is sampled four times as finely.

    Raises
    ------
    CorruptTileError
        Pixels cannot be decoded.
    """
    blur = np.full(wanted.shape, np.nan)
    for group in _groups(wanted, _GROUP_SQUARES):
        value = _window_blur(slide, _central(wanted, group), frame, glass, single)
        blur[group] = value
        if value >= _DOUBTFUL * max_blur_um:
            for quarter in _groups(wanted, _GROUP_SQUARES // 2, within=group):
                blur[quarter] = _window_blur(slide, _central(wanted, quarter), frame, glass, single)
    blur[~wanted] = np.nan
    return blur


def _window_blur(
    slide: Slide, square: tuple[int, int], frame: FrameTransform, glass: tuple[int, int, int], single: RedCellOd
) -> float:
    mpp = max(_FOCUS_MPP, slide.mpp.x, slide.mpp.y)
    x, y = slide.frame(mpp).from_px0(frame.to_px0([square[1] + 0.5, square[0] + 0.5]))
    half = round(_WINDOW_UM / mpp / 2)
    x0, y0 = round(float(x)) - half, round(float(y)) - half
    pixels = slide.read(Box(x0=x0, y0=y0, x1=x0 + 2 * half, y1=y0 + 2 * half), mpp)
    red, green = density(pixels, glass, 0), density(pixels, glass, 1)
    nuclei = grow(nuclear_mask(red, green, single), round(_NUCLEUS_MARGIN_UM / mpp))
    energies = edge_energies(green, mpp, nuclei)
    blur = blur_from_energies(float(energies.fine.sum(dtype=np.float64)), float(energies.coarse.sum(dtype=np.float64)))
    return NO_EDGES_UM if np.isnan(blur) else blur


def _groups(wanted: Mask, size: int, within: tuple[slice, slice] | None = None) -> Iterator[tuple[slice, slice]]:
    """Yield groups of squares that hold a wanted one, top to bottom."""
    rows, columns = within or (slice(0, wanted.shape[0]), slice(0, wanted.shape[1]))
    for row in range(rows.start, min(rows.stop, wanted.shape[0]), size):
        for column in range(columns.start, min(columns.stop, wanted.shape[1]), size):
            group = (slice(row, row + size), slice(column, column + size))
            if wanted[group].any():
                yield group


def _central(wanted: Mask, group: tuple[slice, slice]) -> tuple[int, int]:
    """Return the wanted square nearest to the middle of a group."""
    places = np.argwhere(wanted[group])
    middle = (np.array([group[0].stop - group[0].start, group[1].stop - group[1].start]) - 1) / 2
    row, column = places[np.argmin(((places - middle) ** 2).sum(axis=1))]
    return int(group[0].start + row), int(group[1].start + column)
