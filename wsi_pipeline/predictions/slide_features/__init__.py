"""A slide or patient as one vector of named features, each with the number of cells behind it."""

from wsi_pipeline.predictions.slide_features.feature import SlideFeature, SlideFeatures
from wsi_pipeline.predictions.slide_features.groups import immature_weight
from wsi_pipeline.predictions.slide_features.table import FeatureTable, feature_table, slide_features
from wsi_pipeline.predictions.slide_features.vocabulary import Vocabulary, features_of

__all__ = [
    "FeatureTable",
    "SlideFeature",
    "SlideFeatures",
    "Vocabulary",
    "feature_table",
    "features_of",
    "immature_weight",
    "slide_features",
]
