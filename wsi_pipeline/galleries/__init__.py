"""Galleries: folders of single-cell images by patient, run as slides without positions."""

from wsi_pipeline.galleries.comparison import Comparison, pool_comparisons, write_comparison
from wsi_pipeline.galleries.job import GalleryJob
from wsi_pipeline.galleries.labels import GivenLabel, resolve_labels
from wsi_pipeline.galleries.listing import Gallery, GalleryImage, Patient, list_gallery
from wsi_pipeline.galleries.patient import expected_files, run_patient

__all__ = [
    "Comparison",
    "Gallery",
    "GalleryImage",
    "GalleryJob",
    "GivenLabel",
    "Patient",
    "expected_files",
    "list_gallery",
    "pool_comparisons",
    "resolve_labels",
    "run_patient",
    "write_comparison",
]
