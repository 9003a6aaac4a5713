"""Bags: the nucleated cells of a patient or a slide, from finished runs to what a slide-level model reads."""

from wsi_pipeline.predictions.bags.bag import CellBag
from wsi_pipeline.predictions.bags.cells import check_embeddings
from wsi_pipeline.predictions.bags.labels import Cohort, CohortNotes, LabelTask, read_cohort
from wsi_pipeline.predictions.bags.leakage import SharedCells, cell_leakage, shared_cells
from wsi_pipeline.predictions.bags.reading import bags_of, read_bags, read_runs
from wsi_pipeline.predictions.bags.routine import counts_of
from wsi_pipeline.predictions.bags.runs import FinishedSlide, SkippedSlide, finished_slide, list_runs

__all__ = [
    "CellBag",
    "Cohort",
    "CohortNotes",
    "FinishedSlide",
    "LabelTask",
    "SharedCells",
    "SkippedSlide",
    "bags_of",
    "cell_leakage",
    "check_embeddings",
    "counts_of",
    "finished_slide",
    "list_runs",
    "read_bags",
    "read_cohort",
    "read_runs",
    "shared_cells",
]
