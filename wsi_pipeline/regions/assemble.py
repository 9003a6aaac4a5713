"""Put regions together: what is taken, what is left out and why, each place once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon, box
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.config import RegionsConfig
from wsi_pipeline.regions.morphology import Mask
from wsi_pipeline.regions.polygons import mask_to_polygons
from wsi_pipeline.regions.regions import Exclusion, RegionMode, Regions, area_mm2, only_areas
from wsi_pipeline.sentences import joined, say
from wsi_pipeline.slides import Slide
from wsi_pipeline.units import FrameTransform

_MAX_SMALL_LISTED = 200
_SPECK_MM2 = 0.0005
NO_PIECES = MultiPolygon()


def slide_bounds(slide: Slide) -> Polygon:
    """Return the scanned part of a slide in level-0 pixels."""
    return box(slide.bounds.x0, slide.bounds.y0, slide.bounds.x1, slide.bounds.y1)


def merged(mask: Mask, frame: FrameTransform) -> BaseGeometry:
    """Return a mask as one geometry in level-0 pixels."""
    return shapely.unary_union(mask_to_polygons(mask, frame)) if np.any(mask) else NO_PIECES


def by_size(pieces: Iterable[Polygon], slide: Slide, min_area_mm2: float) -> tuple[list[Polygon], list[Polygon]]:
    """Return the pieces (level-0 pixels) that are large enough, and the smaller ones that are worth listing."""
    enough: list[Polygon] = []
    small: list[Polygon] = []
    for piece in pieces:
        size = area_mm2(piece, slide)
        if size >= min_area_mm2:
            enough.append(piece)
        elif size >= _SPECK_MM2:
            small.append(piece)
    return enough, small


def exclude(
    geometry: BaseGeometry, reason: str, taken: BaseGeometry, bounds: Polygon, excluded: list[Exclusion]
) -> BaseGeometry:
    """Add what of ``geometry`` is not yet taken to ``excluded``; return what is taken then."""
    rest = only_areas(geometry.intersection(bounds).difference(taken))
    if rest.is_empty:
        return taken
    excluded.append(Exclusion(rest, reason))
    return shapely.union(taken, rest)


def exclude_small(
    small: list[Polygon], taken: BaseGeometry, bounds: Polygon, excluded: list[Exclusion]
) -> BaseGeometry:
    """Exclude the largest of the pieces that are too small, top to bottom; return what is taken then."""
    largest = sorted(small, key=lambda piece: -piece.area)[:_MAX_SMALL_LISTED]
    for piece in sorted(largest, key=lambda piece: (piece.bounds[1], piece.bounds[0])):
        taken = exclude(piece, "too-small", taken, bounds, excluded)
    return taken


def small_note(small: list[Polygon]) -> list[str]:
    """Return a note when not all small pieces are listed."""
    if len(small) <= _MAX_SMALL_LISTED:
        return []
    return [say("{n} pieces are too small; the largest {most} are listed", n=len(small), most=_MAX_SMALL_LISTED)]


def note_of(notes: Sequence[str]) -> str:
    """Return notes as one, or an empty string."""
    return joined(notes, "; ") if notes else ""


def coarse_note(overview_mpp: float, wanted_mpp: float) -> str:
    """Return the note on an overview that is coarser than was asked for."""
    return say(
        "searched at {mpp:g} um/px, since the slide is too large for {wanted:g}", mpp=overview_mpp, wanted=wanted_mpp
    )


def build(
    slide: Slide,
    config: RegionsConfig,
    mode: RegionMode,
    *,
    included: MultiPolygon,
    excluded: list[Exclusion],
    note: str,
    facts: Mapping[str, Any] | None = None,
    empty_reason: str | None = None,
) -> Regions:
    """Return the regions of a slide."""
    return Regions(
        included=included,
        excluded=tuple(excluded),
        mode_requested=config.mode,
        mode=mode,
        note=note,
        area_mm2=area_mm2(included, slide),
        fingerprint=slide.fingerprint,
        bounds_offset_px0=(slide.bounds.x0, slide.bounds.y0),
        facts=facts or {},
        empty_reason=empty_reason,
    )
