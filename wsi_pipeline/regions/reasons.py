"""Why a part of a slide is not looked at."""

from __future__ import annotations

REASONS = (
    "background",
    "glass",
    "pen",
    "no-data",
    "scanner-stripe",
    "air-bubble",
    "stain-precipitate",
    "particle",
    "too-thick",
    "too-thin",
    "out-of-focus",
    "too-dark",
    "bone",
    "haemorrhage",
    "crush",
    "fold",
    "corrupt-tile",
    "poor-field",
    "partial-field",
    "beyond-max-area",
    "beyond-target",
    "too-small",
    "outside-drawn",
    "ignored-class",
)
"""Reason codes of exclusions, as they stand in ``regions.geojson``."""

USERS_REASONS = frozenset(("outside-drawn", "ignored-class", "beyond-max-area", "beyond-target", "partial-field"))
"""Those that say what was asked, not what was seen."""
