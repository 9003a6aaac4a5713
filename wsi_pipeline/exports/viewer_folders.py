"""The folders TIAToolbox's viewer is given: slides and overlays under names that belong together, and colours.

The viewer takes an overlay for a slide's when the slide's name without its ending occurs anywhere in the overlay's
path. Slides and stores are therefore linked under names of which none is part of another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.atomic import write_text
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.exports.annotation_store import types_in
from wsi_pipeline.exports.qupath import UNKNOWN_COLOUR

SUFFIXES = (".svs", ".ndpi", ".tiff", ".tif", ".mrxs", ".png", ".jpg")
"""Endings that the viewer lists and this package reads."""


@dataclass(frozen=True, kw_only=True)
class ViewedSlide:
    """A slide, its file and its store of annotations."""

    slide_id: str
    path: Path
    store: Path


def can_be_viewed(path: Path) -> bool:
    """Tell whether the viewer lists a file of this name."""
    return path.suffix.lower() in SUFFIXES


def link_folders(
    slides: Sequence[ViewedSlide], scratch: Path, colours: Mapping[str, tuple[int, int, int]]
) -> tuple[Path, Path]:
    """Make the folders of slides and of overlays, and the viewer's settings beside the overlays.

    Parameters
    ----------
    slides
        With endings of :data:`SUFFIXES`.
    scratch
        An empty folder.
    colours
        Colour of each type of annotation, 0 to 255; types not listed are grey.

    Returns
    -------
    The folder of slides and that of overlays.

    Raises
    ------
    ConfigError
        The folder's file system has no symbolic links.
    """
    slide_folder, overlay_folder = scratch / "slides", scratch / "overlays"
    slide_folder.mkdir()
    overlay_folder.mkdir()
    types: set[str] = set()
    for number, slide in enumerate(slides, start=1):
        # Ids hold no "=", so no name is part of another.
        name = f"{number:05d}={slide.slide_id}"
        _link(slide.path, slide_folder / f"{name}{slide.path.suffix.lower()}")
        if slide.path.suffix.lower() == ".mrxs":
            _link(slide.path.with_suffix(""), slide_folder / name)
        _link(slide.store, overlay_folder / f"{name}.db")
        types.update(types_in(slide.store))
    settings = {
        "color_dict": {name: [*colours.get(name, UNKNOWN_COLOUR), 255] for name in sorted(types)},
        "default_cprop": "type",
        "auto_load": 1,
        "first_slide": min(path.name for path in slide_folder.iterdir() if path.is_file()),
        "opts": {"colorbar_on": 0},
    }
    write_text(overlay_folder / "config.json", json.dumps(settings))
    return slide_folder, overlay_folder


def _link(target: Path, link: Path) -> None:
    try:
        link.symlink_to(target.absolute())
    except OSError as error:
        raise ConfigError(
            f"{link.parent} takes no symbolic links ({error.strerror}); set TMPDIR to a folder that does"
        ) from None
