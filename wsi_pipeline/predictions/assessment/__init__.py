"""How good a model is, on patients it has not seen: every figure with its interval and a trivial baseline beside it."""

from wsi_pipeline.predictions.assessment.bootstrap import Estimate
from wsi_pipeline.predictions.assessment.candidates import BASELINE, Candidate, Predictor, baseline
from wsi_pipeline.predictions.assessment.operating import Rule
from wsi_pipeline.predictions.assessment.plan import Plan
from wsi_pipeline.predictions.assessment.study import Study, run_study
from wsi_pipeline.predictions.assessment.subjects import Subjects

__all__ = [
    "BASELINE",
    "Candidate",
    "Estimate",
    "Plan",
    "Predictor",
    "Rule",
    "Study",
    "Subjects",
    "baseline",
    "run_study",
]
