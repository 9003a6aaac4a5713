"""Find the readable part of a smear: where red cells lie in one layer, apart and in focus.

What haematologists call the examination area lies behind the feathered edge: red cells touch here and there, do not lie
over one another, and show their pale centre (CLSI H20-A2, 2007; ICSH recommendations, Palmer et al., Int J Lab Hematol
37:287, 2015, doi 10.1111/ijlh.12327). Measured in squares of 64 um, averaged over three by three:

- **bare glass**: less stain than any film (the overview, :mod:`wsi_pipeline.regions.masks`).
- **too thin** (feathered edge): red cells cover less than ``thin_share`` of what they cover in the slide's own
  monolayer, kept within 5 and 20 % of the area. A monolayer of normal blood is covered to 25 to 75 %; measured against
  itself, an anaemic patient's monolayer, or a marrow's, is not taken for the feathered edge.
- **too thick** (body): more than ``max_cover`` of the area is covered, so that no gaps are left between cells; or red
  cells lie over one another: densities add, so doubled cells absorb twice what one does. The share of the covered area
  that is doubled (:mod:`wsi_pipeline.regions.layers`) is compared with the slide's own thinner parts, and only where
  cells are also denser than usual.
- **out of focus**: blur above ``max_blur_um`` (:mod:`wsi_pipeline.regions.focus`). At 1.2 um, a full width of 2.8 um,
  the filaments between the lobes of a neutrophil and all granules are gone.
- **too dark**: the brightest tenth stays below ``min_exposure``.
- **particles** of a marrow smear: dense clumps where nuclei lie over one another. The cell trails beside them are kept
  even where red cells are few.

Only red cells and focus decide, never white cells, which would bias their count. When in doubt a square is kept: a
flaw smaller than four squares does not count, and what cannot be measured is not held against a square.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry import MultiPolygon
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.config import RegionsConfig
from wsi_pipeline.regions.artefacts import Stripes, find_bubbles, find_stripes
from wsi_pipeline.regions.assemble import (
    NO_PIECES,
    build,
    by_size,
    coarse_note,
    exclude,
    exclude_small,
    merged,
    note_of,
    slide_bounds,
    small_note,
)
from wsi_pipeline.regions.focus_map import can_judge_focus, measure_blur
from wsi_pipeline.regions.layers import Usual, measure_layers, usual_layers, window_sum
from wsi_pipeline.regions.masks import Masks, find_masks
from wsi_pipeline.regions.morphology import Mask, grow, large
from wsi_pipeline.regions.overview import Overview, read_overview, sample_glass
from wsi_pipeline.regions.polygons import mask_to_polygons
from wsi_pipeline.regions.regions import Exclusion, Regions, area_mm2, as_multipolygon, only_areas
from wsi_pipeline.regions.squares import RedCellOd, Squares, lattice, measure_squares, single_red_cell
from wsi_pipeline.sentences import say
from wsi_pipeline.slides import Slide
from wsi_pipeline.units import FrameTransform

_COARSEST_MPP = 2.1
_STAINED_SHARE = 0.5
_LEAST_FLAW_SQUARES = 4
_DENSER = 1.15
_PARTICLE_NUCLEAR = 0.65
_PARTICLE_MM2 = 0.02
_GAPLESS_OD = 0.03
"""Glass is white to cream. Where even the brightest parts absorb more green than red and blue (haemoglobin, eosin), red
cells lie everywhere."""

_ARTEFACTS = ("pen", "no-data", "scanner-stripe", "air-bubble", "stain-precipitate")
_FLAWS = ("particle", "too-thick", "too-thin", "out-of-focus", "too-dark")


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """Flaws of the squares by reason code, and what is to be told about the slide."""

    flaws: dict[str, Mask]
    facts: dict[str, Any]
    notes: list[str]


def find_smear_regions(slide: Slide, config: RegionsConfig, *, marrow: bool) -> Regions:
    """Find the monolayer of a smear.

    Parameters
    ----------
    slide
        An open slide.
    config
        Thresholds; ``mode`` does not matter here.
    marrow
        A marrow smear: particles are left out, and the cell trails beside them kept.

    Returns
    -------
    Mode ``monolayer``, or ``stain`` when the slide is too coarse to tell red cells (over 2.1 um per pixel). Empty with
    the reason that takes the largest area when nothing readable is left.

    Raises
    ------
    CorruptTileError
        Pixels cannot be decoded.
    """
    overview, glass = read_overview(slide, config.overview_mpp), sample_glass(slide)
    masks = find_masks(overview.pixels, mpp=overview.mpp, stain=True, glass=None if _is_gapless(glass) else glass)
    stripes = find_stripes(overview.pixels, overview.mpp, glass, min_step_od=config.min_stripe_od)
    flaws: dict[str, tuple[Mask, FrameTransform]] = {
        "pen": (masks.pen, overview.frame),
        "no-data": (masks.no_data, overview.frame),
        "scanner-stripe": (stripes.mask, overview.frame),
        "air-bubble": (find_bubbles(overview.pixels, overview.mpp, glass) & ~masks.pen, overview.frame),
    }
    notes, facts = _overview_notes(overview, config, stripes)
    mpp = max(config.search_mpp, slide.mpp.x, slide.mpp.y)
    judged = mpp <= _COARSEST_MPP
    if judged and masks.stained.any():
        found = _judge(slide, config, masks, overview, glass, mpp=mpp, marrow=marrow)
        frame, _ = lattice(slide, mpp)
        flaws |= {reason: (mask, frame) for reason, mask in found.flaws.items()}
        notes += found.notes
        facts |= found.facts
    elif not judged:
        notes.append(
            say("the slide is too coarse ({mpp:g} um/px) to tell the monolayer; the stained area is taken", mpp=mpp)
        )
    return _assembled(slide, config, masks, overview, flaws, notes, facts, judged=judged)


def _overview_notes(overview: Overview, config: RegionsConfig, stripes: Stripes) -> tuple[list[str], dict[str, Any]]:
    notes: list[str] = []
    facts: dict[str, Any] = {}
    if overview.mpp > config.overview_mpp:
        notes.append(coarse_note(overview.mpp, config.overview_mpp))
    if stripes.step_od:
        facts["stripe_step_od"], facts["stripe_period_um"] = round(stripes.step_od, 3), round(stripes.period_um)
    return notes, facts


def _judge(
    slide: Slide,
    config: RegionsConfig,
    masks: Masks,
    overview: Overview,
    glass: tuple[int, int, int],
    *,
    mpp: float,
    marrow: bool,
) -> _Judged:
    """Measure the stained squares and tell what is wrong with each."""
    frame, shape = lattice(slide, mpp)
    stained = _share(masks.stained, overview, frame, shape) >= _STAINED_SHARE
    if _is_gapless(glass):
        note = say("no gap between cells shows bare glass anywhere on the slide")
        return _Judged(flaws={"too-thick": stained}, facts={}, notes=[note])
    single = single_red_cell(slide, stained, frame, mpp=mpp, glass=glass)
    known = single or RedCellOd(green=np.inf, red=0.0)
    squares = measure_squares(slide, stained, frame, mpp=mpp, glass=glass, single=known)
    layers = measure_layers(squares)
    cover, overlap = layers
    levels = usual_layers(layers, max_overlap=config.max_overlap, thin_share=config.thin_share)
    particle = (
        large(squares.nuclear > _PARTICLE_NUCLEAR, _PARTICLE_MM2 / (squares.side_um**2 * 1e-6)) if marrow else None
    )
    overlapped = overlap > levels.overlap + config.max_overlap
    if levels.cover is not None:
        # Dense cells look doubled; where cells do lie over one another there are also more of them.
        overlapped &= cover > _DENSER * levels.cover
    thin = cover < levels.least_cover
    notes: list[str] = []
    if levels.cover is None:
        notes.append(say("no monolayer of red cells found"))
        if marrow:
            # Aspirates poor in blood have none; their nucleated cells are still what is wanted.
            notes.append(say("the stained area is kept where it is not too thick"))
            thin = np.zeros_like(thin)
    if particle is not None and particle.any():
        thin &= ~grow(particle, round(config.trail_um / squares.side_um))
    blur = np.full(shape, np.nan)
    if can_judge_focus(slide):
        seen = stained & ~overlapped & ~thin
        if particle is not None:
            seen &= ~particle
        blur = measure_blur(slide, seen, frame, glass=glass, single=known, max_blur_um=config.max_blur_um)
    else:
        notes.append(say("focus is not judged at {mpp:g} um/px", mpp=max(slide.mpp.x, slide.mpp.y)))
    blurred = blur > config.max_blur_um
    specks = window_sum(squares.specks) / np.maximum(
        window_sum(squares.measured.astype(float)) * (squares.side_um * 1e-3) ** 2, 1e-9
    )
    flaws = {
        "stain-precipitate": (specks > config.max_specks_per_mm2) & ~overlapped,
        "particle": np.zeros_like(stained) if particle is None else particle,
        "out-of-focus": blurred & ~overlapped,
        "too-thick": overlapped | ((cover > config.max_cover) & ~blurred),
        "too-thin": thin,
        "too-dark": squares.exposure < config.min_exposure,
    }
    flaws = {reason: large(mask & stained, _LEAST_FLAW_SQUARES) for reason, mask in flaws.items()}
    good = stained & ~np.logical_or.reduce(list(flaws.values()))
    # Squares on the rim of the film, mostly glass, are not measured: without a good neighbour they share its flaw.
    rim = ~stained & ~grow(good, 1)
    flaws = {reason: mask | (grow(mask, 1) & rim) for reason, mask in flaws.items()}
    return _Judged(flaws=flaws, facts=_facts(squares, levels, single, cover, blur, good), notes=notes)


def _is_gapless(glass: tuple[int, int, int]) -> bool:
    red, green, blue = np.log10(np.array(glass) + 1.0)
    return bool((red + blue) / 2 - green > _GAPLESS_OD)


def _facts(
    squares: Squares,
    levels: Usual,
    single: RedCellOd | None,
    cover: npt.NDArray[np.float64],
    blur: npt.NDArray[np.float64],
    good: Mask,
) -> dict[str, Any]:
    measured = blur[~np.isnan(blur)]
    inside = cover[good & ~np.isnan(cover)]
    return {
        "red_cell_od": round(single.green, 3) if single else None,
        "red_cell_cover_median": round(float(np.median(inside)), 3) if len(inside) else None,
        "least_cover": round(levels.least_cover, 3),
        "doubled_share_usual": round(levels.overlap, 3),
        "blur_median_um": round(float(np.median(measured)), 2) if len(measured) else None,
        "blur_p90_um": round(float(np.percentile(measured, 90)), 2) if len(measured) else None,
        "exposure_median": round(float(np.median(squares.exposure[squares.measured])), 3)
        if squares.measured.any()
        else None,
    }


def _share(mask: Mask, overview: Overview, frame: FrameTransform, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return the share of each square that is set in a mask of the overview."""
    x0, y0 = overview.frame.from_px0(frame.to_px0([0.0, 0.0]))
    scale_x, scale_y = frame.scale_x / overview.frame.scale_x, frame.scale_y / overview.frame.scale_y
    fine = 4  # points of the overview a side
    columns = np.floor(x0 + (np.arange(shape[1] * fine) + 0.5) / fine * scale_x).astype(int)
    rows = np.floor(y0 + (np.arange(shape[0] * fine) + 0.5) / fine * scale_y).astype(int)
    inside = (rows >= 0) & (rows < mask.shape[0])
    points = np.zeros((len(rows), len(columns)), dtype=np.float32)
    across = (columns >= 0) & (columns < mask.shape[1])
    points[np.ix_(inside, across)] = mask[np.ix_(rows[inside], columns[across])]
    return points.reshape(shape[0], fine, shape[1], fine).mean(axis=(1, 3))


def _assembled(
    slide: Slide,
    config: RegionsConfig,
    masks: Masks,
    overview: Overview,
    flaws: dict[str, tuple[Mask, FrameTransform]],
    notes: list[str],
    facts: dict[str, Any],
    *,
    judged: bool,
) -> Regions:
    bounds = slide_bounds(slide)
    stained, small = by_size(mask_to_polygons(masks.stained, overview.frame), slide, config.min_area_mm2)
    film: BaseGeometry = shapely.unary_union(stained).intersection(bounds) if stained else NO_PIECES
    parts = {reason: merged(mask, frame) for reason, (mask, frame) in flaws.items()}
    kept = only_areas(film.difference(shapely.unary_union(list(parts.values()))))
    pieces, fragments = by_size(as_multipolygon(kept).geoms, slide, config.min_area_mm2)
    included = as_multipolygon(MultiPolygon(pieces))
    small += fragments
    excluded: list[Exclusion] = []
    taken: BaseGeometry = included
    for reason in (*_ARTEFACTS, *_FLAWS):
        if reason in parts:
            # Flaws of the film end where it ends; artefacts are shown wherever they are.
            where = parts[reason] if reason in _ARTEFACTS else parts[reason].intersection(film)
            taken = exclude(where, reason, taken, bounds, excluded)
    taken = exclude_small(small, taken, bounds, excluded)
    exclude(bounds, "glass", taken, bounds, excluded)
    areas: dict[str, float] = {}
    for part in excluded:
        areas[part.reason] = areas.get(part.reason, 0.0) + area_mm2(part.geometry, slide)
    empty_reason = None
    if included.is_empty:
        flawed = {reason: size for reason, size in areas.items() if reason in _FLAWS or reason in _ARTEFACTS}
        empty_reason = max(flawed, key=lambda reason: flawed[reason]) if stained and flawed else "glass-only"
        if stained:
            notes.append(
                say(
                    "nothing readable is left of {area:.3g} mm2 of film: mostly {reason}",
                    area=area_mm2(film, slide),
                    reason=empty_reason,
                )
            )
        else:
            notes.append(
                say(
                    "no stained area found: nothing of {least:g} mm2 or more is denser than {density:.3f} optical "
                    "density over glass",
                    least=config.min_area_mm2,
                    density=float(masks.threshold_od),
                )
            )
    size, film_size = area_mm2(included, slide), area_mm2(film, slide)
    facts = {
        "film_mm2": round(film_size, 3),
        "readable_mm2": round(size, 3),
        "readable_share": round(size / film_size, 3) if film_size else None,
        "excluded_mm2": {reason: round(area, 3) for reason, area in areas.items()},
        **facts,
    }
    return build(
        slide,
        config,
        "monolayer" if judged else "stain",
        included=included,
        excluded=excluded,
        note=note_of(notes + small_note(small)),
        facts=facts,
        empty_reason=empty_reason,
    )
