"""Narrow the regions of a smear to good fields, in the order in which they are visited."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import shapely
from shapely.geometry import MultiPolygon
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.config import RegionsConfig
from wsi_pipeline.regions.field_score import SCORE_MPP, field_score
from wsi_pipeline.regions.fields import Axis, Field, FieldLattice, battlement
from wsi_pipeline.regions.regions import Exclusion, Regions, area_mm2, as_multipolygon, only_areas
from wsi_pipeline.slides import Slide
from wsi_pipeline.units import Box

POOR = "poor-field"
BEYOND_AREA = "beyond-max-area"
BEYOND_TARGET = "beyond-target"
PARTIAL = "partial-field"


@dataclass(frozen=True, kw_only=True)
class FieldChoice:
    """The fields of a smear, as far as red cells, focus and the area limit decide.

    Attributes
    ----------
    fields
        To be counted, in the order of the battlement.
    poor
        Visited and left out: scored under ``regions.min_field_score``.
    beyond
        Not visited, since the fields before them fill ``regions.max_area_mm2``.
    """

    fields: tuple[Field, ...]
    poor: tuple[Field, ...] = ()
    beyond: tuple[Field, ...] = ()

    def to_record(self) -> dict[str, Any]:
        """Return JSON values."""
        return {f.name: [[x.column, x.row] for x in getattr(self, f.name)] for f in dataclasses.fields(self)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> FieldChoice:
        """Return what :meth:`to_record` wrote."""
        return cls(**{name: tuple(Field(column=c, row=r) for c, r in pairs) for name, pairs in record.items()})


def lattice_of(slide: Slide, config: RegionsConfig) -> FieldLattice:
    """Return the lattice of a slide's fields."""
    return FieldLattice(side_um=config.field_um, mpp_x=slide.mpp.x, mpp_y=slide.mpp.y)


def choose_fields(slide: Slide, included: BaseGeometry, config: RegionsConfig) -> FieldChoice:
    """Choose fields inside the regions, walking the battlement along the slide's longer side.

    A field is read at 1 um per pixel when it is reached, so an area limit also limits what is read. White cells play
    no part.

    Parameters
    ----------
    included
        Where cells may be looked for, level-0 pixels.
    config
        ``max_area_mm2`` takes the first good fields, one after another, that together stay within it: like a target
        it cuts the battlement's prefix, whose strips span the width of the smear.
    """
    lattice = lattice_of(slide, config)
    bounds = slide.bounds
    along: Axis = "x" if bounds.width * slide.mpp.x >= bounds.height * slide.mpp.y else "y"
    inside = lattice.candidates(included)
    order = battlement(inside, along)
    good: list[Field] = []
    poor: list[Field] = []
    left = float("inf") if config.max_area_mm2 is None else config.max_area_mm2 * (1 + 1e-9)
    for visited, field in enumerate(order):
        size = inside[field] * config.field_um**2 * 1e-6
        if field_score(_read(slide, field, config.field_um), SCORE_MPP) < config.min_field_score:
            poor.append(field)
            continue
        if size > left:
            return FieldChoice(fields=tuple(good), poor=tuple(poor), beyond=tuple(order[visited:]))
        left -= size
        good.append(field)
    return FieldChoice(fields=tuple(good), poor=tuple(poor))


def _read(slide: Slide, field: Field, side_um: float) -> Any:
    """Read a field; its own microns are pixels at 1 um per pixel."""
    width, height = slide.size_at(SCORE_MPP)
    side = side_um / SCORE_MPP
    box = Box(
        x0=round(field.column * side), y0=round(field.row * side),
        x1=round((field.column + 1) * side), y1=round((field.row + 1) * side),
    )  # fmt: skip
    return slide.read(box.clip(Box(x0=0, y0=0, x1=width, y1=height)), SCORE_MPP)


def narrow(
    regions: Regions, choice: FieldChoice, slide: Slide, config: RegionsConfig, *, taken: int | None = None
) -> Regions:
    """Return the regions cut down to chosen fields; every part left out says why.

    Parameters
    ----------
    regions
        As found, before fields were chosen.
    taken
        How many of the choice's fields are kept; all when None. The rest is ``beyond-target``.
    """
    lattice = lattice_of(slide, config)
    kept = choice.fields[:taken]
    rest = choice.fields[len(kept) :]
    left: BaseGeometry = regions.included
    included = as_multipolygon(_within(lattice, kept, left)) if kept else MultiPolygon()
    excluded = list(regions.excluded)
    left = left.difference(included)
    groups: Sequence[tuple[Sequence[Field], str]] = (
        (choice.poor, POOR), (choice.beyond, BEYOND_AREA), (rest, BEYOND_TARGET)
    )  # fmt: skip
    for fields, reason in groups:
        part = only_areas(_within(lattice, fields, left))
        if not part.is_empty:
            excluded.append(Exclusion(part, reason))
            left = left.difference(part)
    if not (left := only_areas(left)).is_empty:
        excluded.append(Exclusion(left, PARTIAL))
    n_candidates = len(choice.fields) + len(choice.poor) + len(choice.beyond)
    facts = {
        "side_um": config.field_um,
        "order": "battlement",
        "candidates": n_candidates,
        "visited": n_candidates - len(choice.beyond),
        "poor": len(choice.poor),
        "beyond_max_area": len(choice.beyond),
        "beyond_target": len(rest),
        "chosen": len(kept),
        "min_score": config.min_field_score,
        "max_area_mm2": config.max_area_mm2,
    }
    empty = regions.empty_reason
    if not kept and not regions.is_empty:
        empty = POOR if n_candidates else PARTIAL
    return dataclasses.replace(
        regions,
        included=included,
        excluded=tuple(excluded),
        area_mm2=area_mm2(included, slide),
        facts={**regions.facts, "fields": facts},
        empty_reason=empty,
    )


def _within(lattice: FieldLattice, fields: Sequence[Field], area: BaseGeometry) -> BaseGeometry:
    return lattice.area_of(fields).intersection(area) if fields else MultiPolygon()


def regions_record(regions: Regions) -> dict[str, Any]:
    """Return regions as JSON values, geometries as hexadecimal WKB, exact to the last bit."""
    plain = {f.name: getattr(regions, f.name) for f in dataclasses.fields(regions)}
    return {
        **plain,
        "included": shapely.to_wkb(regions.included, hex=True),
        **{
            name: [[shapely.to_wkb(part.geometry, hex=True), part.reason] for part in getattr(regions, name)]
            for name in ("excluded", "inside")
        },
        "facts": dict(regions.facts),
    }


def regions_from_record(record: Mapping[str, Any]) -> Regions:
    """Return what :func:`regions_record` wrote."""
    plain = dict(record)
    plain["included"] = shapely.from_wkb(record["included"])
    for name in ("excluded", "inside"):
        plain[name] = tuple(Exclusion(shapely.from_wkb(wkb), reason) for wkb, reason in record[name])
    plain["bounds_offset_px0"] = tuple(record["bounds_offset_px0"])
    return Regions(**plain)
