"""How good an answer is: instances, points and classes against the truth, each figure with its interval."""

from wsi_pipeline.evaluation.baselines import majority_labels, otsu_baseline
from wsi_pipeline.evaluation.datasets import (
    FolderPairs,
    ImagePair,
    LabelledImage,
    Points,
    pair_folders,
    read_class_folders,
    read_points,
)
from wsi_pipeline.evaluation.images import read_mask
from wsi_pipeline.evaluation.points import PointsMetrics, PointsResult, evaluate_points, match_points
from wsi_pipeline.evaluation.relabel import map_labels, merge_roll_ups
from wsi_pipeline.evaluation.segmentation import (
    ImageScore,
    InstanceMatch,
    Overlaps,
    SegmentationMetrics,
    evaluate_segmentation,
    instance_overlaps,
    match_instances,
    score_image,
)
from wsi_pipeline.evaluation.tables import (
    classification_metrics,
    classification_table,
    points_metrics,
    points_table,
    segmentation_metrics,
    segmentation_table,
    text_table,
)
from wsi_pipeline.predictions.assessment.bootstrap import Estimate
from wsi_pipeline.predictions.assessment.calibration import Calibration, calibration
from wsi_pipeline.predictions.assessment.confusion import ClassificationMetrics, evaluate_classification
from wsi_pipeline.slides.picture import read_image

__all__ = [
    "Calibration",
    "ClassificationMetrics",
    "Estimate",
    "FolderPairs",
    "ImagePair",
    "ImageScore",
    "InstanceMatch",
    "LabelledImage",
    "Overlaps",
    "Points",
    "PointsMetrics",
    "PointsResult",
    "SegmentationMetrics",
    "calibration",
    "classification_metrics",
    "classification_table",
    "evaluate_classification",
    "evaluate_points",
    "evaluate_segmentation",
    "instance_overlaps",
    "majority_labels",
    "map_labels",
    "match_instances",
    "match_points",
    "merge_roll_ups",
    "otsu_baseline",
    "pair_folders",
    "points_metrics",
    "points_table",
    "read_class_folders",
    "read_image",
    "read_mask",
    "read_points",
    "score_image",
    "segmentation_metrics",
    "segmentation_table",
    "text_table",
]
