"""Regions of a trephine: what of the tissue is no marrow, and the cellularity of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import shapely
from shapely.geometry import MultiPolygon
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.config import RegionsConfig, Stain
from wsi_pipeline.regions.assemble import note_of
from wsi_pipeline.regions.cellularity import Areas, estimate, space_areas
from wsi_pipeline.regions.evidence import HALO_UM, Evidence, find_evidence
from wsi_pipeline.regions.masks import find_masks, glass_colour
from wsi_pipeline.regions.morphology import Mask, closed, grow, large, opened
from wsi_pipeline.regions.overview import Overview, read_overview
from wsi_pipeline.regions.polygons import mask_to_polygons
from wsi_pipeline.regions.regions import Exclusion, Regions, area_mm2, as_multipolygon, only_areas
from wsi_pipeline.regions.reticulin import classify_reticulin
from wsi_pipeline.regions.stain import find_stain, require_stain
from wsi_pipeline.regions.tissue_classes import Tissue, classify, subcortical
from wsi_pipeline.sentences import say
from wsi_pipeline.slides import Slide
from wsi_pipeline.units import Box, FrameTransform

_COARSEST_MPP = 4.0
"""A nucleus of 7 um is then two pixels wide; in coarser pictures marrow and bone look alike."""
_MAX_PX = 32 * 2**20
_STRIP_PX = 512
_JOIN_UM = 160.0
"""Fat at the edge of a core is as pale as glass: the search reaches this far around stained tissue, and a gap."""
_SMOOTH_UM = 8.0
_EXCLUDED_MIN_UM2 = 4000.0
_FAT_MIN_UM2 = 200.0
_REST_MIN_MM2, _REST_MIN_UM = 0.002, 32.0

_EXCLUDED = {
    Tissue.BONE: "bone",
    Tissue.HAEMORRHAGE: "haemorrhage",
    Tissue.CRUSH: "crush",
    Tissue.FOLD: "fold",
}
_NAMES = {Tissue.MARROW: "haematopoietic", Tissue.FAT: "fat", Tissue.SPACE: "space", Tissue.OTHER: "other", **_EXCLUDED}


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A piece of tissue: areas in mm2 by name, its marrow spaces, what is left out and its fat as polygons."""

    areas: dict[str, float]
    spaces: Areas
    left_out: dict[str, list[BaseGeometry]]
    fat: list[BaseGeometry]


def find_trephine_regions(slide: Slide, config: RegionsConfig, found: Regions, stain: Stain = "routine") -> Regions:
    """Tell bone and artefacts from marrow inside found regions, and measure cellularity there.

    Parameters
    ----------
    slide
        An open section.
    config
        ``trephine_mpp`` is the resolution, ``subcortical_um`` the rim that is not counted,
        ``cellularity_min_mm2`` the least marrow that is judged.
    found
        Regions of tissue, drawn, or of the whole image.
    stain
        Of ``reticulin`` there is no cellularity: nuclei hardly show.

    Returns
    -------
    Regions
        Of mode ``tissue``, less bone, haemorrhage, crush and folds, each an exclusion; other modes keep their
        geometry, but on reticulin. All carry ``facts``: ``stain``, ``classes_mm2`` and ``cellularity``.

    Raises
    ------
    WrongStainError
        Colours are beyond doubt of another stain, and ``check_stain`` is on.

    Notes
    -----
    Cellularity is haematopoietic over haematopoietic and fat area. Pale gaps (sinusoids, tears) and stained tissue
    without nuclei count as neither. Marrow beside cortex is normally hypocellular and usually ignored (Illustrated
    Pathology of the Bone Marrow, Cambridge 2006, ch. 1: the first three subcortical spaces): left out is a rim of
    fixed depth where bone is thick enough to be cortex beyond doubt; its nuclei are still looked for.
    """
    if max(slide.mpp.x, slide.mpp.y) > _COARSEST_MPP:
        return replace(found, facts={**found.facts, "cellularity": _none("resolution-too-low")})
    if found.included.is_empty:
        return replace(found, facts={**found.facts, "cellularity": _none("no-tissue")})
    overview = read_overview(slide, config.overview_mpp)
    glass = glass_colour(overview.pixels)
    inside = _raster(found.included, overview)
    seen = find_stain(overview.pixels, glass, inside)
    if config.check_stain:
        require_stain(seen, stain, str(slide.path))
    stained = find_masks(overview.pixels, mpp=overview.mpp, stain=False).stained
    stained &= inside
    pieces: list[_Piece] = []
    skipped = 0
    for mask in _groups(stained, overview):
        piece = _piece(slide, config, glass, mask, overview, stain)
        if piece is None:
            skipped += 1
        else:
            pieces.append(piece)
    facts = {**found.facts, "stain": seen.to_dict(), **_facts(pieces, config)}
    if stain == "reticulin":
        facts["cellularity"] = _none("reticulin-stain")
    done = replace(found, facts=facts)
    if skipped:
        note = say("{n} pieces are too large to be searched for bone at {mpp:g} um/px", n=skipped, mpp=_COARSEST_MPP)
        done = replace(done, note=note_of([*filter(None, (found.note,)), note]))
    # On reticulin, bone is no marrow to rank fibres in, whoever chose the area.
    if found.mode == "tissue" or stain == "reticulin":
        return _with_inside(_without(done, pieces, slide), pieces, ("fat",))
    return _with_inside(done, pieces, ("bone", "fat"))


def _with_inside(found: Regions, pieces: list[_Piece], names: tuple[str, ...]) -> Regions:
    """Return regions with what was told apart inside them, to be shown."""
    parts = []
    for name in names:
        shapes = [shape for piece in pieces for shape in (piece.fat if name == "fat" else piece.left_out[name])]
        part = only_areas(shapely.unary_union(shapes).intersection(found.included)) if shapes else MultiPolygon()
        if not part.is_empty:
            parts.append(Exclusion(part, name))
    return replace(found, inside=tuple(parts))


def _none(reason: str) -> dict[str, Any]:
    return {**estimate(np.zeros((0, 2)), min_mm2=0).to_dict(), "reason": reason}


def _facts(pieces: list[_Piece], config: RegionsConfig) -> dict[str, Any]:
    names = [*_NAMES.values(), "subcortical-rim"]
    areas = {name: round(sum(piece.areas.get(name, 0.0) for piece in pieces), 6) for name in names}
    spaces = np.concatenate([np.zeros((0, 2)), *(piece.spaces for piece in pieces)])
    return {"classes_mm2": areas, "cellularity": estimate(spaces, min_mm2=config.cellularity_min_mm2).to_dict()}


def _without(found: Regions, pieces: list[_Piece], slide: Slide) -> Regions:
    """Take what is left out from the included regions."""
    included: BaseGeometry = found.included
    added: list[Exclusion] = []
    for reason in _EXCLUDED.values():
        shapes = [shape for piece in pieces for shape in piece.left_out[reason]]
        part = only_areas(shapely.unary_union(shapes).intersection(included)) if shapes else MultiPolygon()
        if not part.is_empty:
            added.append(Exclusion(part, reason))
            included = only_areas(included.difference(part))
    kept = as_multipolygon(included)
    if added:
        # Along bone at the edge of a core a seam remains.
        narrow = _REST_MIN_UM / 2 / min(slide.mpp.x, slide.mpp.y)
        scraps = [a for a in kept.geoms if area_mm2(a, slide) < _REST_MIN_MM2 or a.buffer(-narrow).is_empty]
        if scraps:
            added.append(Exclusion(only_areas(MultiPolygon(scraps)), "too-small"))
            kept = MultiPolygon([one for one in kept.geoms if one not in scraps])
    emptied_by = max(added, key=lambda part: part.geometry.area).reason if kept.is_empty and added else None
    return replace(
        found,
        included=kept,
        excluded=(*added, *found.excluded),
        area_mm2=area_mm2(kept, slide),
        empty_reason=emptied_by or found.empty_reason,
    )


def _raster(geometry: MultiPolygon, overview: Overview) -> Mask:
    """Return which pixels of the overview lie in a geometry."""
    mask = np.zeros(overview.pixels.shape[:2], dtype=np.uint8)
    for polygon in geometry.geoms:
        shape = np.zeros_like(mask) if polygon.interiors else mask
        for ring, value in ((polygon.exterior, 1), *((hole, 0) for hole in polygon.interiors)):
            corners = np.rint(overview.frame.from_px0(ring.coords) - 0.5).astype(np.int32)
            cv2.fillPoly(shape, [corners], value)
        mask |= shape
    return mask.astype(bool)


def _groups(stained: Mask, overview: Overview) -> Iterator[Mask]:
    """Yield tissue that lies together, each a mask of the overview, top to bottom."""
    tissue = closed(stained, _JOIN_UM / overview.mpp) | stained
    count, labels = cv2.connectedComponents(grow(tissue, _JOIN_UM / overview.mpp).astype(np.uint8), connectivity=8)
    for label in range(1, count):
        mask = tissue & (labels == label)
        if mask.any():
            yield mask


def _piece(
    slide: Slide, config: RegionsConfig, glass: tuple[int, int, int], mask: Mask, overview: Overview, stain: Stain
) -> _Piece | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    (x0, y0), (x1, y1) = overview.frame.to_px0([(columns[0], rows[0]), (columns[-1] + 1, rows[-1] + 1)])
    area_um2 = (x1 - x0) * slide.mpp.x * (y1 - y0) * slide.mpp.y
    native = max(slide.mpp.x, slide.mpp.y)
    mpp = max(config.trephine_mpp, native, float(np.sqrt(area_um2 / _MAX_PX)))
    if mpp > _COARSEST_MPP:
        return None
    frame = slide.frame(mpp)
    box = frame.box_from_px0(x0, y0, x1, y1)
    evidence = _read_evidence(slide, box, mpp, glass)
    tissue = _magnified(mask, overview, box, frame)
    classes = (classify_reticulin if stain == "reticulin" else classify)(evidence, tissue, mpp=mpp)
    rim = subcortical(classes, mpp=mpp, depth_um=config.subcortical_um)
    pixel_mm2 = mpp * mpp * 1e-6
    counts = np.bincount(classes.ravel(), minlength=len(Tissue))
    areas = {name: float(counts[code]) * pixel_mm2 for code, name in _NAMES.items()}
    areas["subcortical-rim"] = float(np.isin(classes[rim], (Tissue.MARROW, Tissue.FAT)).sum()) * pixel_mm2
    origin_x, origin_y = frame.to_px0([box.x0, box.y0])
    moved = FrameTransform(
        scale_x=frame.scale_x, scale_y=frame.scale_y, offset_x=float(origin_x), offset_y=float(origin_y)
    )
    left_out = {}
    for code, reason in _EXCLUDED.items():
        smooth = large(opened(classes == code, _SMOOTH_UM / mpp), _EXCLUDED_MIN_UM2 / mpp**2)
        left_out[reason] = list(mask_to_polygons(smooth, moved)) if smooth.any() else []
    round_fat = large(classes == Tissue.FAT, _FAT_MIN_UM2 / mpp**2)
    fat = list(mask_to_polygons(round_fat, moved)) if round_fat.any() else []
    spaces = space_areas(classes, rim, mpp=mpp, origin_um=(box.x0 * mpp, box.y0 * mpp))
    return _Piece(areas=areas, spaces=spaces, left_out=left_out, fat=fat)


def _read_evidence(slide: Slide, box: Box, mpp: float, glass: tuple[int, int, int]) -> Evidence:
    """Read a picture strip by strip, each with a halo, so that only evidence is held whole."""
    halo = int(np.ceil(HALO_UM / mpp))
    parts = []
    for y in range(box.y0, box.y1, _STRIP_PX):
        stop = min(y + _STRIP_PX, box.y1)
        top, bottom = max(box.y0, y - halo), min(box.y1, stop + halo)
        pixels = slide.read(Box(x0=box.x0, y0=top, x1=box.x1, y1=bottom), mpp)
        parts.append(find_evidence(pixels, mpp=mpp, glass=glass).crop(slice(y - top, stop - top)))
    return Evidence.stacked(parts)


def _magnified(mask: Mask, overview: Overview, box: Box, frame: FrameTransform) -> Mask:
    """Return a mask of the overview on the pixels of a box in a finer frame."""
    both = np.arange(max(box.width, box.height)) + 0.5
    places = frame.to_px0(np.stack([both + box.x0, both + box.y0], axis=1))
    columns, rows = np.floor(overview.frame.from_px0(places)).astype(int).T
    height, width = mask.shape
    columns, rows = np.clip(columns[: box.width], 0, width - 1), np.clip(rows[: box.height], 0, height - 1)
    return np.asarray(mask[rows][:, columns])
