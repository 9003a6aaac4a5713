"""``trephines.csv``: a row a trephine of a run, from the entries of their summaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TREPHINES_FILE = "trephines.csv"

_PLACES: Mapping[str, tuple[str, ...]] = {
    "marrow_mm2": ("marrow_mm2",),
    "bone_mm2": ("bone_mm2",),
    "cellularity_percent": ("cellularity", "percent"),
    "megakaryocytes": ("megakaryocytes", "n"),
    "per_mm2": ("megakaryocytes", "per_mm2"),
    "per_mm2_lower": ("megakaryocytes", "lower"),
    "per_mm2_upper": ("megakaryocytes", "upper"),
    "median_diameter_um": ("megakaryocytes", "measures", "diameter_um", "q50"),
    "median_nc_ratio": ("megakaryocytes", "measures", "nc_ratio", "q50"),
    "median_nucleus_lobes": ("megakaryocytes", "measures", "nucleus_lobes", "q50"),
    "median_hyperchromasia": ("megakaryocytes", "measures", "hyperchromasia", "q50"),
    "bare_percent": ("megakaryocytes", "bare", "percent"),
    "nearest_um": ("arrangement", "nearest_um", "mean"),
    "clark_evans": ("arrangement", "clark_evans", "ratio"),
    "pairs_within_radius": ("arrangement", "pair_correlation", "within_radius"),
    "clusters": ("arrangement", "clusters", "n"),
    "clustered_share": ("arrangement", "clusters", "share"),
    "beside_bone_share": ("arrangement", "bone", "share"),
    "beside_bone_random_share": ("arrangement", "bone", "random_share"),
}
TREPHINE_COLUMNS = ("slide_id", *_PLACES, "reason")


def trephine_row(slide_id: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a slide, of the entry ``trephine`` of its summary; empty is what cannot be told."""
    return {
        "slide_id": slide_id,
        **{name: _cell(_at(entry, place)) for name, place in _PLACES.items()},
        "reason": entry["reason"] or "",
    }


def _at(entry: Any, place: tuple[str, ...]) -> Any:
    for key in place:
        if entry is None:
            return None
        entry = entry.get(key)
    return entry


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.6g}"
