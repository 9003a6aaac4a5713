"""Red cells measured in squares of a fixed lattice over a smear.

A square is 64 um wide: 20 to 40 red cells of a monolayer. Pixels of nuclei and their surroundings count neither as red
cells nor as gaps, so that white cells cannot make a square look better or worse.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from wsi_pipeline.regions.artefacts import speck_maxima
from wsi_pipeline.regions.morphology import Mask, Rgb
from wsi_pipeline.slides import Slide
from wsi_pipeline.units import Box, FrameTransform

SQUARE_UM = 64.0
CELL_OD = 0.05
"""Green density above which glass is covered. A red cell absorbs 0.06 unstained (mean cell haemoglobin 30 pg over
44 um2, 1.4e4 L/(mol cm) a haem at 540 nm) and 0.1 to 0.5 with eosin; its pale centre may stay below."""
OD_BINS, OD_STEP = 96, 1 / 120
"""Histograms of optical density, up to 0.8; denser falls into the last bin."""
_NUCLEUS_OD, _NUCLEUS_TIMES_RED_CELL, _NUCLEUS_RED_TO_GREEN = 0.15, 2.5, 0.4
_NUCLEUS_MARGIN_UM = 3.0
_NUCLEUS_LEAST_UM = 3.0
_BLOCK_SQUARES = 16
_SAMPLES = 48
_SAMPLE_COVER = (0.08, 0.75)
_DARKEST_RED_CELL = 0.25

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RedCellOd:
    """Median optical density over single red cells of the slide, green and red channel."""

    green: float
    red: float


@dataclass(frozen=True, kw_only=True)
class Squares:
    """Sums over the squares, each ``(rows, columns)``; zero where a square was not measured.

    Attributes
    ----------
    frame
        From squares (column, row) to level-0 pixels.
    side_um
        Side of a square.
    measured
        Squares that were read.
    valid, covered, nuclear
        Shares of the square: not of a nucleus, platelet or speck or near one; of these covered by cells; of nuclei.
    densities
        ``(rows, columns, OD_BINS)`` uint16: covered pixels by green density, one in two.
    specks
        Number of dark specks.
    exposure
        90th percentile of luminance, share of full scale.
    """

    frame: FrameTransform
    side_um: float
    measured: Mask
    valid: Counts
    covered: Counts
    nuclear: Counts
    densities: npt.NDArray[np.uint16]
    specks: Counts
    exposure: Counts


def measure_squares(
    slide: Slide, wanted: Mask, frame: FrameTransform, *, mpp: float, glass: tuple[int, int, int], single: RedCellOd
) -> Squares:
    """Measure the squares of a lattice.

    Parameters
    ----------
    wanted
        ``(rows, columns)``: which squares to read.
    frame
        From squares to level-0 pixels, as :func:`lattice` gives it.
    mpp
        Resolution to read at.
    glass
        Colour of empty glass.
    single
        What one red cell absorbs.

    Raises
    ------
    CorruptTileError
        Pixels cannot be decoded.
    """
    side = side_px(mpp)
    names = ("valid", "covered", "nuclear", "specks", "exposure")
    sums = {name: np.zeros(wanted.shape) for name in names}
    densities = np.zeros((*wanted.shape, OD_BINS), dtype=np.uint16)
    for rows, columns in _blocks(wanted):
        pixels = slide.read(_box(frame, slide, rows, columns, mpp), mpp)
        part, histograms = _measure(pixels, side, mpp, glass, single)
        densities[rows, columns] = np.where(wanted[rows, columns, None], histograms, 0)
        for name in names:
            sums[name][rows, columns] = np.where(wanted[rows, columns], part[name], 0)
    return Squares(frame=frame, side_um=side * mpp, measured=wanted, densities=densities, **sums)


def side_px(mpp: float) -> int:
    """Return the side of a square in pixels at ``mpp``."""
    return max(8, round(SQUARE_UM / mpp))


def lattice(slide: Slide, mpp: float) -> tuple[FrameTransform, tuple[int, int]]:
    """Return the frame of the squares that cover the slide's bounds, and their numbers of rows and columns."""
    side, frame, bounds = side_px(mpp), slide.frame(mpp), slide.bounds
    box = frame.box_from_px0(bounds.x0, bounds.y0, bounds.x1, bounds.y1)
    x0, y0 = box.x0 // side * side, box.y0 // side * side
    origin_x, origin_y = frame.to_px0([x0, y0])
    squares = FrameTransform(
        scale_x=frame.scale_x * side, scale_y=frame.scale_y * side, offset_x=float(origin_x), offset_y=float(origin_y)
    )
    return squares, (-(-(box.y1 - y0) // side), -(-(box.x1 - x0) // side))


def single_red_cell(
    slide: Slide, wanted: Mask, frame: FrameTransform, *, mpp: float, glass: tuple[int, int, int]
) -> RedCellOd | None:
    """Return what one red cell of the slide absorbs; None where no sample holds both red cells and gaps.

    Of up to 48 squares spread over the wanted ones, those with cells and gaps each give the densities of what
    is covered and not as dark in red light as nuclei. The lower quartile over the squares is taken: thick squares
    hold doubled cells.
    """
    places = np.argwhere(wanted)
    if not len(places):
        return None
    chosen = places[np.unique(np.linspace(0, len(places) - 1, min(_SAMPLES, len(places))).round().astype(int))]
    found = []
    for row, column in chosen:
        rows, columns = slice(row, row + 1), slice(column, column + 1)
        pixels = slide.read(_box(frame, slide, rows, columns, mpp), mpp)
        red, green = density(pixels, glass, 0), density(pixels, glass, 1)
        covered = green > CELL_OD
        if not _SAMPLE_COVER[0] <= covered.mean() <= _SAMPLE_COVER[1]:
            continue
        pale = covered & (red <= _NUCLEUS_OD)
        # A stain that is dark in red light also over red cells: nuclei are then the minority.
        cells = pale if pale.sum() >= 0.3 * covered.sum() else covered
        found.append((np.median(green[cells]), np.median(red[cells])))
    if not found:
        return None
    green_od, red_od = np.percentile(found, 25, axis=0)
    if red_od > _DARKEST_RED_CELL:
        return None  # these are nuclei
    return RedCellOd(green=float(green_od), red=float(red_od))


def nuclear_mask(red: npt.NDArray[np.float32], green: npt.NDArray[np.float32], single: RedCellOd) -> Mask:
    """Return what absorbs red light as nuclei do (azure B): more than stacked red cells, and much of green's."""
    return np.asarray(
        (red > max(_NUCLEUS_OD, _NUCLEUS_TIMES_RED_CELL * single.red)) & (red > _NUCLEUS_RED_TO_GREEN * green)
    )


def density(pixels: Rgb, glass: tuple[int, int, int], channel: int) -> npt.NDArray[np.float32]:
    """Return the optical density of one channel over glass, ``(h, w)`` float32."""
    table = np.log10((glass[channel] + 1.0) / (np.arange(256) + 1.0)).astype(np.float32)
    return table[pixels[..., channel]]


def _measure(
    pixels: Rgb, side: int, mpp: float, glass: tuple[int, int, int], single: RedCellOd
) -> tuple[dict[str, Counts], npt.NDArray[np.uint16]]:
    red, green = density(pixels, glass, 0), density(pixels, glass, 1)
    nuclei = nuclear_mask(red, green, single)
    width = max(3, 2 * round(_NUCLEUS_LEAST_UM / mpp / 2) + 1)
    solid = cv2.morphologyEx(nuclei.astype(np.uint8), cv2.MORPH_OPEN, np.ones((width, width), np.uint8))
    margin = 2 * round(_NUCLEUS_MARGIN_UM / mpp) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (margin, margin))
    # Platelets and precipitate are as dark as nuclei and are no red cells either; specks are looked for among them.
    dark, near = (cv2.dilate(mask.astype(np.uint8), kernel).astype(bool) for mask in (nuclei, solid))
    covered = (green > CELL_OD) & ~dark
    luminance = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    sums = {
        "valid": _mean(~dark, side),
        "covered": _mean(covered, side),
        "nuclear": _mean(solid, side),
        "specks": _mean(speck_maxima(red, green, near, red_cell=single.red), side) * side * side,
        "exposure": _percentile(luminance, side, 90) / 255.0,
    }
    return sums, _histograms(green, covered, side)


def _mean(mask: npt.NDArray[np.bool_] | npt.NDArray[np.uint8], side: int) -> Counts:
    rows, columns = mask.shape[0] // side, mask.shape[1] // side
    squares = mask[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return np.asarray(squares.sum(axis=(1, 3), dtype=np.int64) / float(side * side))


def _histograms(green: npt.NDArray[np.float32], chosen: Mask, side: int) -> npt.NDArray[np.uint16]:
    """Return histograms of the chosen pixels of every square, of every other row."""
    rows, columns = chosen.shape[0] // side, chosen.shape[1] // side
    y, x = np.nonzero(chosen[::2])
    bins = np.minimum(green[::2][y, x] / OD_STEP, OD_BINS - 1).astype(np.int64)
    flat = ((y * 2 // side) * columns + x // side) * OD_BINS + bins
    counts = np.bincount(flat, minlength=rows * columns * OD_BINS)
    return counts.reshape(rows, columns, OD_BINS).astype(np.uint16)


def _percentile(values: npt.NDArray[np.uint8], side: int, percent: float) -> Counts:
    """Return a percentile of every square, of every fourth row and column in it."""
    rows, columns = values.shape[0] // side, values.shape[1] // side
    squares = values[: rows * side, : columns * side].reshape(rows, side, columns, side)
    squares = squares[:, ::4, :, ::4].transpose(0, 2, 1, 3)
    return np.percentile(squares.reshape(rows, columns, -1), percent, axis=2)


def _blocks(wanted: Mask) -> Iterator[tuple[slice, slice]]:
    """Yield blocks of squares that hold a wanted one; memory is that of a block."""
    for row in range(0, wanted.shape[0], _BLOCK_SQUARES):
        for column in range(0, wanted.shape[1], _BLOCK_SQUARES):
            rows = slice(row, min(row + _BLOCK_SQUARES, wanted.shape[0]))
            columns = slice(column, min(column + _BLOCK_SQUARES, wanted.shape[1]))
            if wanted[rows, columns].any():
                yield rows, columns


def _box(squares: FrameTransform, slide: Slide, rows: slice, columns: slice, mpp: float) -> Box:
    side, frame = side_px(mpp), slide.frame(mpp)
    x0, y0 = round(squares.offset_x / frame.scale_x), round(squares.offset_y / frame.scale_y)
    return Box(
        x0=x0 + columns.start * side, y0=y0 + rows.start * side,
        x1=x0 + columns.stop * side, y1=y0 + rows.stop * side,
    )  # fmt: skip
