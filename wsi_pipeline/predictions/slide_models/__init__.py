"""Models that answer for a slide or a patient from its cells."""

from wsi_pipeline.predictions.slide_models.answer import SlideAnswer, answer
from wsi_pipeline.predictions.slide_models.criteria import CriteriaModel
from wsi_pipeline.predictions.slide_models.ensemble import SlideEnsemble, SlideModel
from wsi_pipeline.predictions.slide_models.storage import load_slide_model, save_slide_model

__all__ = [
    "CriteriaModel",
    "SlideAnswer",
    "SlideEnsemble",
    "SlideModel",
    "answer",
    "load_slide_model",
    "save_slide_model",
]
