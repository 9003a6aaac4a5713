"""Self-contained HTML reports: one per slide, one per run. No script, no request to anywhere."""

from wsi_pipeline.exports.report.assessment import write_assessment
from wsi_pipeline.exports.report.cohort import write_cohort_report
from wsi_pipeline.exports.report.gallery import write_gallery_report
from wsi_pipeline.exports.report.slide import write_slide_report
from wsi_pipeline.exports.report.summary import SlideSummary, read_summary

__all__ = [
    "SlideSummary",
    "read_summary",
    "write_assessment",
    "write_cohort_report",
    "write_gallery_report",
    "write_slide_report",
]
