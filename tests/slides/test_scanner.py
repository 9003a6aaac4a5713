"""Which scanner made a slide: as far as the file says, and nothing else of what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_pipeline.slides import open_slide
from wsi_pipeline.slides.scanner import scanner_name


@pytest.mark.parametrize(
    ("slide_format", "properties", "name"),
    [
        ("tiff", {}, "tiff"),
        ("aperio", {"aperio.ScanScope ID": "SS1302", "tiff.Model": "x"}, "aperio SS1302"),
        ("hamamatsu", {"hamamatsu.Product": "Hamamatsu NanoZoomer"}, "Hamamatsu NanoZoomer"),
        ("dicom", {"dicom.Manufacturer": "Leica", "dicom.ManufacturerModelName": "GT450"}, "Leica GT450"),
        ("tiff", {"tiff.Make": " 3D\nHISTECH ", "tiff.Model": "P\x001000"}, "3D HISTECH P1000"),
        ("tiff", {"tiff.Model": "y" * 500}, "tiff " + "y" * 60),
    ],
)
def test_maker_and_model(slide_format: str, properties: dict[str, str], name: str) -> None:
    assert scanner_name(slide_format, properties) == name


def test_a_tiffs_tags_name_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    pixels = np.full((600, 600, 3), 200, np.uint8)
    options = {"tile": (256, 256), "photometric": "rgb", "resolution": (40_000, 40_000)}
    extra = [(271, "s", 0, "Maker", True), (272, "s", 0, "Model 7", True), (315, "s", 0, "Jane Doe", True)]
    tifffile.imwrite(path, pixels, resolutionunit="CENTIMETER", extratags=extra, **options)
    with open_slide(path) as slide:
        assert slide.scanner == "Maker Model 7"
        assert "Jane" not in str(slide.properties)
