"""Computational haematology on whole slides.

``run_slide`` and ``run_cohort`` run the pipeline, ``open_slide`` reads slides, ``load_config`` reads configurations.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_config", "open_slide", "run_cohort", "run_slide"]

if TYPE_CHECKING:
    from wsi_pipeline.cohort import run_cohort, run_slide
    from wsi_pipeline.config import load_config
    from wsi_pipeline.slides import open_slide

_HOME = {
    "load_config": "wsi_pipeline.config",
    "open_slide": "wsi_pipeline.slides",
    "run_cohort": "wsi_pipeline.cohort",
    "run_slide": "wsi_pipeline.cohort",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: importing the package costs nothing.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
