"""Pixels in: open slides and read them at a physical resolution, the same bytes however they are cut."""

from wsi_pipeline.slides.describe import describe_slide
from wsi_pipeline.slides.fingerprint import slide_fingerprint
from wsi_pipeline.slides.formats import FIELD_SUFFIXES, SLIDE_SUFFIXES, is_virtual
from wsi_pipeline.slides.ngff import is_zarr
from wsi_pipeline.slides.open import open_slide
from wsi_pipeline.slides.paths import RemotePath, SlidePath, is_url, slide_path
from wsi_pipeline.slides.slide import Level, Mpp, Slide, SlideSpec

__all__ = [
    "FIELD_SUFFIXES",
    "SLIDE_SUFFIXES",
    "Level",
    "Mpp",
    "RemotePath",
    "Slide",
    "SlidePath",
    "SlideSpec",
    "describe_slide",
    "is_url",
    "is_virtual",
    "is_zarr",
    "open_slide",
    "slide_fingerprint",
    "slide_path",
]
