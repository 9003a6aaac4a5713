"""Reading backends: OpenSlide (the broad base) and TIAToolbox (what OpenSlide cannot open)."""

from wsi_pipeline.slides.backends.base import Backend, RgbArray

__all__ = ["Backend", "RgbArray"]
