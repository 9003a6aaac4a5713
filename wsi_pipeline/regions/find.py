"""Decide where on a slide cells are looked for."""

from __future__ import annotations

from pathlib import Path

import shapely
from shapely.geometry import MultiPolygon
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.config import RegionsConfig, Stain
from wsi_pipeline.errors import RegionError
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
from wsi_pipeline.regions.geojson import read_regions
from wsi_pipeline.regions.masks import find_masks
from wsi_pipeline.regions.overview import read_overview
from wsi_pipeline.regions.polygons import mask_to_polygons
from wsi_pipeline.regions.regions import Exclusion, Regions, area_mm2, as_multipolygon
from wsi_pipeline.regions.smear import find_smear_regions
from wsi_pipeline.regions.trephine import find_trephine_regions
from wsi_pipeline.sentences import say
from wsi_pipeline.slides import Slide


def find_regions(
    slide: Slide,
    *,
    specimen: str,
    config: RegionsConfig,
    regions_file: Path | None = None,
    stain: Stain = "routine",
) -> Regions:
    """Find the regions of a slide.

    Parameters
    ----------
    slide
        An open slide.
    specimen
        ``trephine`` looks for tissue and, inside, tells marrow from bone and artefacts; ``blood_smear`` and
        ``marrow_smear`` for the monolayer.
    config
        Mode ``auto`` uses ``regions_file`` when there is one, the whole image below ``all_below_mm2``, and the
        overview otherwise; ``all`` the whole scanned area; ``file`` the drawn areas.
    regions_file
        GeoJSON drawn in QuPath.
    stain
        What the configuration is for; of a trephine ``reticulin`` tells marrow from bone by its fibres.

    Raises
    ------
    WrongStainError
        A trephine shows another stain, and ``check_stain`` is on.
    RegionError
        Mode ``file`` without a file, a file that cannot be used, or areas that miss the slide.
    CorruptTileError
        The overview cannot be read.
    """
    found = _find(slide, specimen, config, regions_file)
    return find_trephine_regions(slide, config, found, stain) if specimen == "trephine" else found


def _find(slide: Slide, specimen: str, config: RegionsConfig, regions_file: Path | None) -> Regions:
    if config.mode == "file" and regions_file is None:
        raise RegionError(
            f"{slide.path}: regions.mode is file, and the manifest's regions column gives no file for this slide"
        )
    if regions_file is not None and config.mode != "all":
        return _drawn(slide, config, regions_file)
    whole = slide_bounds(slide)
    size_mm2 = area_mm2(whole, slide)
    if config.mode == "all":
        note = ""
        if regions_file:
            note = say("the regions file {name} is not used, because regions.mode is all", name=regions_file.name)
        return build(slide, config, "all", included=MultiPolygon([whole]), excluded=[], note=note)
    if size_mm2 < config.all_below_mm2:
        note = say(
            "read whole: {size:.3g} mm2 is below regions.all_below_mm2 ({least:g})",
            size=size_mm2,
            least=config.all_below_mm2,
        )
        return build(slide, config, "all", included=MultiPolygon([whole]), excluded=[], note=note)
    if specimen == "trephine":
        return _tissue(slide, config)
    return find_smear_regions(slide, config, marrow=specimen == "marrow_smear")


def _tissue(slide: Slide, config: RegionsConfig) -> Regions:
    overview = read_overview(slide, config.overview_mpp)
    masks = find_masks(overview.pixels, mpp=overview.mpp, stain=False)
    bounds = slide_bounds(slide)
    included, small = by_size(mask_to_polygons(masks.stained, overview.frame), slide, config.min_area_mm2)
    pieces = as_multipolygon(shapely.unary_union(included).intersection(bounds)) if included else NO_PIECES
    excluded: list[Exclusion] = []
    taken: BaseGeometry = pieces
    for reason, mask in (("pen", masks.pen), ("no-data", masks.no_data)):
        taken = exclude(merged(mask, overview.frame), reason, taken, bounds, excluded)
    taken = exclude_small(small, taken, bounds, excluded)
    exclude(bounds, "background", taken, bounds, excluded)
    notes: list[str] = []
    if overview.mpp > config.overview_mpp:
        notes.append(coarse_note(overview.mpp, config.overview_mpp))
    if pieces.is_empty:
        notes.append(
            say(
                "no tissue found: nothing of {least:g} mm2 or more is denser than {density:.3f} optical density "
                "over glass",
                least=config.min_area_mm2,
                density=float(masks.threshold_od),
            )
        )
    notes += small_note(small)
    return build(slide, config, "tissue", included=pieces, excluded=excluded, note=note_of(notes))


def _drawn(slide: Slide, config: RegionsConfig, regions_file: Path) -> Regions:
    bounds = slide_bounds(slide)
    areas = read_regions(regions_file, offset_px0=(slide.bounds.x0, slide.bounds.y0))
    wanted = [area.geometry for area in areas if not area.ignored]
    if not wanted:
        raise RegionError(f"{regions_file}: every area has an ignored class (its name ends in *); nothing is left")
    pieces: BaseGeometry = shapely.unary_union(wanted)
    width, height = slide.dimensions
    drawn = pieces.intersection(bounds)
    if drawn.area <= 0:
        x0, y0, x1, y1 = pieces.bounds
        raise RegionError(
            f"{regions_file}: the areas (x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}) miss the slide "
            f"{slide.path.name} of {width} x {height} pixels; were they drawn on another slide?"
        )
    excluded: list[Exclusion] = []
    taken: BaseGeometry = MultiPolygon()
    for area in areas:
        if area.ignored:
            taken = exclude(area.geometry, area.reason, taken, bounds, excluded)
    included = as_multipolygon(drawn.difference(taken))
    exclude(bounds, "outside-drawn", shapely.union(taken, included), bounds, excluded)
    notes = [say("drawn areas of {name}", name=regions_file.name)]
    if drawn.area < pieces.area * (1 - 1e-9):
        notes.append(say("parts outside the slide are cut off"))
    return build(slide, config, "file", included=included, excluded=excluded, note=note_of(notes))
