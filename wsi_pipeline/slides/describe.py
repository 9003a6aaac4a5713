"""Describe a slide for people: what ``wsi-pipeline inspect`` shows."""

from __future__ import annotations

from typing import Any

from wsi_pipeline.slides.slide import Slide


def describe_slide(slide: Slide, *, mpp: float) -> dict[str, Any]:
    """Return a JSON-ready description; label and macro images are never read.

    Parameters
    ----------
    slide
        An open slide.
    mpp
        Working resolution, microns per pixel.
    """
    width, height = slide.dimensions
    working = slide.size_at(mpp)
    level = slide.level_for(mpp)
    return {
        "path": str(slide.path),
        "format": slide.slide_format,
        "backend_requested": slide.backend_requested,
        "backend": slide.backend,
        "plane": slide.plane,
        "fingerprint": slide.fingerprint,
        "width_px": width,
        "height_px": height,
        "area_mm2": round(width * slide.mpp.x * height * slide.mpp.y * 1e-6, 4),
        "mpp_x": slide.mpp.x,
        "mpp_y": slide.mpp.y,
        "mpp_source": slide.mpp.source,
        "objective": slide.objective,
        "levels": [
            {"width_px": one.width, "height_px": one.height, "downsample": round(one.downsample, 6)}
            for one in slide.levels
        ],
        "bounds_px0": [slide.bounds.x0, slide.bounds.y0, slide.bounds.x1, slide.bounds.y1],
        "working_mpp": mpp,
        "working_width_px": working[0],
        "working_height_px": working[1],
        "working_level": level,
        "working_downsample_from_level": round(mpp / slide.mpp.x * slide.levels[level].width / width, 6),
        "properties": dict(sorted(slide.properties.items())),
    }
