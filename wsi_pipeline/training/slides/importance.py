"""What weighs in a slide-level model: the mean effect of each number that its readable members take."""

from __future__ import annotations

import numpy as np

from wsi_pipeline.predictions.slide_models.ensemble import SlideEnsemble
from wsi_pipeline.predictions.slide_models.inputs import Appearance
from wsi_pipeline.predictions.slide_models.linear import LinearMember
from wsi_pipeline.predictions.slide_models.trees import BoosterMember
from wsi_pipeline.training.slides.members import TrainingSet

_SHOWN = 10
_SUBJECTS = 100


def importance_table(model: SlideEnsemble, data: TrainingSet) -> str:
    """Return the ten weightiest numbers of each readable member, a line each; empty where there is none.

    The effect is the mean, over training subjects, of the absolute share that the number has in the margin of the first
    class: coefficient times standardised value, or TreeSHAP. Directions of embeddings have no name and are left out.
    """
    lines: list[str] = []
    seen: set[str] = set()
    step = max(1, len(data) // _SUBJECTS)
    for member in model.members:
        if member.name in seen:
            continue
        if isinstance(member, LinearMember) and not isinstance(member.input, Appearance):
            shown = [s for s in data.subjects[::step] if member.applies(s)]
            x = np.concatenate([member.input.read(s, s.views[0], np.ones((1, len(s.bag)))) for s in shown])
            effects = np.abs((x - member.mean) / member.spread * member.coefficients[:, 0]).mean(axis=0)
            names = member.input.names
        elif isinstance(member, BoosterMember):
            effects = np.mean([np.abs(member.contributions(s)[:, 0]) for s in data.subjects[::step]], axis=0)
            names = member.features.names
        else:
            continue
        seen.add(member.name)
        order = np.argsort(-effects, kind="stable")[:_SHOWN]
        lines += [f"{member.name}: {names[i]}  {effects[i]:.3f}" for i in order.tolist() if effects[i] > 0]
    return "\n".join(lines)
