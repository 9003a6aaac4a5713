"""Computational haematology on whole slides. Research use only.

``run_slide`` and ``run_cohort`` run the pipeline, ``open_slide`` reads pixels, ``load_config`` reads configurations,
``load_taxonomy`` label sets; ``differential`` counts with intervals; ``read_finished_run`` finds the results of a run.
``docs/api.md`` lists them all.

Examples
--------
>>> from wsi_pipeline import load_config, load_taxonomy, wilson
>>> load_config("marrow_smear", {"predictions.min_cells": 300}).predictions.min_cells
300
>>> load_taxonomy("pbc-blast").resolve("NGS")
'segmented_neutrophil'
>>> tuple(round(end, 3) for end in wilson(20, 100))
(0.133, 0.289)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from wsi_pipeline.cohort import CohortResult, run_cohort, run_slide
    from wsi_pipeline.config import PipelineConfig, load_config
    from wsi_pipeline.errors import WsiPipelineError
    from wsi_pipeline.exports.finished_run import FinishedRun, RunSlide, read_finished_run
    from wsi_pipeline.predictions import Differential, differential, wilson
    from wsi_pipeline.simulation import VirtualSlide, make_virtual_slide
    from wsi_pipeline.slides import Slide, open_slide
    from wsi_pipeline.taxonomies import Taxonomy, load_taxonomy, taxonomy_names
    from wsi_pipeline.units import Box

_HOME = {
    "Box": "wsi_pipeline.units",
    "CohortResult": "wsi_pipeline.cohort",
    "Differential": "wsi_pipeline.predictions",
    "FinishedRun": "wsi_pipeline.exports.finished_run",
    "PipelineConfig": "wsi_pipeline.config",
    "RunSlide": "wsi_pipeline.exports.finished_run",
    "Slide": "wsi_pipeline.slides",
    "Taxonomy": "wsi_pipeline.taxonomies",
    "VirtualSlide": "wsi_pipeline.simulation",
    "WsiPipelineError": "wsi_pipeline.errors",
    "differential": "wsi_pipeline.predictions",
    "load_config": "wsi_pipeline.config",
    "load_taxonomy": "wsi_pipeline.taxonomies",
    "make_virtual_slide": "wsi_pipeline.simulation",
    "open_slide": "wsi_pipeline.slides",
    "read_finished_run": "wsi_pipeline.exports.finished_run",
    "run_cohort": "wsi_pipeline.cohort",
    "run_slide": "wsi_pipeline.cohort",
    "taxonomy_names": "wsi_pipeline.taxonomies",
    "wilson": "wsi_pipeline.predictions",
}
__all__ = [
    "Box",
    "CohortResult",
    "Differential",
    "FinishedRun",
    "PipelineConfig",
    "RunSlide",
    "Slide",
    "Taxonomy",
    "VirtualSlide",
    "WsiPipelineError",
    "__version__",
    "differential",
    "load_config",
    "load_taxonomy",
    "make_virtual_slide",
    "open_slide",
    "read_finished_run",
    "run_cohort",
    "run_slide",
    "taxonomy_names",
    "wilson",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use: importing the package costs nothing.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
