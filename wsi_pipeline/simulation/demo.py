"""The small slides of ``make demo``: one a specimen, denser in white cells than life so that they can be small."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.config import Specimen
from wsi_pipeline.simulation.slide import make_virtual_slide

_DEMO = (
    ("demo-blood-normal", "normal", 4096, 20),
    ("demo-marrow-aml", "aml", 4096, 21),
    ("demo-section", "section", 2048, 22),
)


@dataclass(frozen=True, kw_only=True)
class DemoSlide:
    """A demonstration slide, the profile it was made from and the table of its cells."""

    path: Path
    specimen: Specimen
    profile: str
    truth: Path


def make_demo_slides(folder: Path) -> list[DemoSlide]:
    """Make the three demonstration slides in ``folder``: a normal blood smear, an AML-like marrow, a section.

    They are the same on every machine with one set of versions, and take about 15 s on one core.
    """
    slides = []
    for name, profile, size, seed in _DEMO:
        # The stain and sharpness of the images that the classifier knows: a demonstration, not a stress test.
        made = make_virtual_slide(
            folder / f"{name}.tiff", profile=profile, size_px=size, seed=seed, stain_variation=0.0, blur_variation=0.0
        )
        slides.append(DemoSlide(path=made.path, specimen=made.specimen, profile=made.profile, truth=made.truth))
    return slides
