"""What others open: QuPath GeoJSON, OME-Zarr labels, HTML reports."""

from wsi_pipeline.exports.labels import write_labels
from wsi_pipeline.exports.qupath import write_qupath
from wsi_pipeline.exports.qupath_validator import validate_qupath
from wsi_pipeline.exports.report import write_cohort_report, write_slide_report

__all__ = ["validate_qupath", "write_cohort_report", "write_labels", "write_qupath", "write_slide_report"]
