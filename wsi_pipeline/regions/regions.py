"""What of a slide is looked at, and why the rest is not."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import shapely
from shapely.geometry import MultiPolygon, mapping
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.atomic import write_text
from wsi_pipeline.regions.geojson import dump_features
from wsi_pipeline.regions.reasons import USERS_REASONS
from wsi_pipeline.slides import Slide

RegionMode = Literal["all", "tissue", "monolayer", "stain", "file"]

_NAMESPACE = uuid.UUID("7c1a4e0e-5d5b-5a3c-9a5e-0b8f6d1c2e37")
_LABELS: dict[RegionMode, tuple[str, tuple[int, int, int]]] = {
    "all": ("Whole slide", (60, 130, 200)),
    "tissue": ("Tissue", (200, 60, 120)),
    "monolayer": ("Monolayer", (150, 60, 200)),
    "stain": ("Stained area", (150, 60, 200)),
    "file": ("Drawn region", (30, 150, 90)),
}
REGION_NAMES = tuple(name for name, _ in _LABELS.values())
"""Names of what is looked at, as they stand in ``regions.geojson``."""
# QuPath ignores classes whose name ends in an asterisk, and so does read_regions.
_IGNORED = ("Ignore*", (150, 150, 150))
_TISSUES = {"bone": ("Bone*", (90, 140, 190)), "fat": ("Fat*", (230, 190, 40))}


class Exclusion(NamedTuple):
    """A part that is not looked at (level-0 pixels) and its reason code."""

    geometry: BaseGeometry
    reason: str


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Where cells are looked for, in level-0 pixels.

    Attributes
    ----------
    included
        Valid polygons; empty when nothing was found.
    excluded
        The rest of the scanned area, each part with its reason: one of :data:`~wsi_pipeline.regions.reasons.REASONS`.
    mode_requested, mode
        ``regions.mode`` of the configuration, and what was done.
    note
        Anything a reader should know, for example why nothing was found.
    area_mm2
        Area of ``included``.
    facts
        JSON facts about the search for the summary and the report (areas by reason, focus, cellularity).
    inside
        Tissue told apart within what is searched (``fat``; ``bone`` where it was not excluded), to be shown.
    empty_reason
        Reason code of the slide's status when ``included`` is empty: what dominated; None leaves the specimen's own.
    fingerprint, bounds_offset_px0
        The slide's, for identifiers and for QuPath's frame (level 0 less the offset).
    """

    included: MultiPolygon
    excluded: tuple[Exclusion, ...]
    mode_requested: str
    mode: RegionMode
    note: str
    area_mm2: float
    fingerprint: str
    bounds_offset_px0: tuple[int, int]
    facts: Mapping[str, Any] = field(default_factory=dict)
    empty_reason: str | None = None
    inside: tuple[Exclusion, ...] = ()

    @property
    def is_empty(self) -> bool:
        return bool(self.included.is_empty)

    def to_features(self) -> list[dict[str, Any]]:
        """Return GeoJSON features for QuPath: annotations in its frame, rounded to 0.01 px and valid.

        One feature for every included piece (top to bottom), then one for every exclusion, then what was told apart
        inside. All are locked, and all but the included ones are of classes that QuPath ignores.
        """
        name, color = _LABELS[self.mode]
        if self.mode == "tissue" and "classes_mm2" in self.facts:
            name = "Marrow"
        pieces = sorted(self.included.geoms, key=lambda piece: (piece.bounds[1], piece.bounds[0], piece.area))
        shapes: list[tuple[BaseGeometry, str, str, tuple[str, tuple[int, int, int]]]] = [
            (piece, "included", self.mode, (name, color)) for piece in pieces
        ]
        shapes += [
            (part.geometry, "excluded", part.reason, _TISSUES.get(part.reason, _IGNORED)) for part in self.excluded
        ]
        shapes += [(part.geometry, "inside", part.reason, _TISSUES.get(part.reason, _IGNORED)) for part in self.inside]
        features: list[dict[str, Any]] = []
        for geometry, status, reason, (label, colour) in shapes:
            drawn = self._qupath_geometry(geometry)
            if drawn.is_empty:
                continue
            index = len(features)
            features.append(
                {
                    "type": "Feature",
                    "id": str(uuid.uuid5(_NAMESPACE, f"{self.fingerprint}/{index}")),
                    "geometry": mapping(drawn),
                    "properties": {
                        "objectType": "annotation",
                        "name": label if status == "included" else reason,
                        "classification": {"name": label, "color": list(colour)},
                        "isLocked": True,
                        "metadata": {"status": status, "reason": reason},
                    },
                }
            )
        return features

    def _qupath_geometry(self, geometry: BaseGeometry) -> BaseGeometry:
        x, y = self.bounds_offset_px0
        moved = shapely.transform(geometry, lambda xy: xy - (x, y))
        return only_areas(shapely.set_precision(moved, 0.01))


def only_areas(geometry: BaseGeometry) -> BaseGeometry:
    """Return the polygons of a geometry as Polygon or MultiPolygon, made valid; lines and points fall away."""
    parts = [part for part in _polygons(shapely.make_valid(geometry)) if part.area > 0]
    if len(parts) == 1:
        return parts[0]
    return MultiPolygon(parts)


def as_multipolygon(geometry: BaseGeometry) -> MultiPolygon:
    """Return the areas of a geometry as one MultiPolygon."""
    areas = only_areas(geometry)
    return areas if isinstance(areas, MultiPolygon) else MultiPolygon([areas])


def _polygons(geometry: BaseGeometry) -> list[Any]:
    if geometry.geom_type == "Polygon":
        return [geometry]
    return [polygon for part in getattr(geometry, "geoms", ()) for polygon in _polygons(part)]


def area_mm2(geometry: BaseGeometry, slide: Slide) -> float:
    """Return the area of a geometry in level-0 pixels, in mm2."""
    return float(geometry.area) * slide.mpp.x * slide.mpp.y * 1e-6


def without(regions: Regions, lost: BaseGeometry, reason: str, slide: Slide) -> Regions:
    """Return the regions less a part (level-0 pixels) of what was searched, which becomes an exclusion of its own.

    It also leaves the exclusions that the search found: what cannot be decoded looks like glass. What the user left out
    stays as it is. Where the part misses all of that, the regions are returned themselves.
    """
    kept = [part for part in regions.excluded if part.reason in USERS_REASONS]
    found = [part for part in regions.excluded if part.reason not in USERS_REASONS]
    searched = shapely.unary_union([regions.included, *(part.geometry for part in found)])
    gone = only_areas(searched.intersection(lost))
    if gone.is_empty:
        return regions
    included = as_multipolygon(regions.included.difference(gone))

    def less(parts: Iterable[Exclusion]) -> list[Exclusion]:
        left = (Exclusion(only_areas(part.geometry.difference(gone)), part.reason) for part in parts)
        return [part for part in left if not part.geometry.is_empty]

    excluded = (*less(found), *kept, Exclusion(gone, reason))
    inside = tuple(less(regions.inside))
    return replace(regions, included=included, excluded=excluded, inside=inside, area_mm2=area_mm2(included, slide))


def write_regions(regions: Regions, path: Path, slide: Slide) -> None:
    """Write ``regions.geojson``: a FeatureCollection that QuPath opens and :func:`read_regions` reads back.

    Raises
    ------
    ValueError
        The regions belong to another slide.
    """
    if regions.fingerprint != slide.fingerprint:
        raise ValueError(f"the regions were found on another slide than {slide.path}")
    write_text(path, dump_features(regions.to_features()))
