"""A slide-level model that is small and not trained: its numbers are drawn, so every part of an answer is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from wsi_pipeline.predictions.slide_models.calibration import ConformalSets, Scaling
from wsi_pipeline.predictions.slide_models.ensemble import Combination, SlideEnsemble
from wsi_pipeline.predictions.slide_models.frame import CellFrame
from wsi_pipeline.predictions.slide_models.networks import AttentionMember, CellReader
from wsi_pipeline.predictions.slide_models.storage import model_path, save_slide_model
from wsi_pipeline.predictions.slide_models.unusual import Unusual
from wsi_pipeline.predictions.tasks import load_task
from wsi_pipeline.weights import file_sha256, shipped_weights

CLASSIFIER = "pbc-blast"
MINIMUM_CELLS = 4
_AXES, _HIDDEN = 3, 2


def write_toy(
    folder: Path, name: str = "toy", *, task: str = "aml", says: tuple[float, float] = (1.0, -1.0), **changes: Any
) -> Path:
    """Write a model of a task of two classes that reads embeddings and weighs cells, and its card.

    Parameters
    ----------
    says
        What is added to the margins of the two classes.
    changes
        Entries of the card that differ.

    Returns
    -------
    pathlib.Path
        The file of weights.
    """
    rng = np.random.default_rng(0)
    classifier = shipped_weights()[CLASSIFIER]
    classes = tuple(classifier.card["classes"])
    length = int(classifier.card["network"]["embedding_dim"])
    frame = CellFrame(
        taxonomy=str(classifier.card["taxonomy"]),
        classes=classes,
        middle=np.zeros(length),
        means=np.zeros((len(classes), length)),
        basis=rng.normal(0, 0.1, (length, _AXES)),
    )
    d = _AXES + len(classes)
    arrays = {
        "v": rng.normal(0, 1, (d, _HIDDEN)), "u": rng.normal(0, 1, (d, _HIDDEN)), "v_bias": np.zeros(_HIDDEN),
        "u_bias": np.zeros(_HIDDEN), "w": rng.normal(0, 1, _HIDDEN), "head": rng.normal(0, 0.5, (d, 2)),
        "bias": np.array(says),
    }  # fmt: skip
    sure = ConformalSets(scores=(np.linspace(0, 0.5, 40), np.linspace(0, 0.5, 40)), coverage=0.9)
    straight = Scaling(slope=1.0, offsets=np.zeros(2))
    model = SlideEnsemble(
        task=load_task(task).model_copy(update={"minimum_cells": MINIMUM_CELLS}),
        card={},
        members=(AttentionMember(name="attention", reader=CellReader(frame=frame, focus=False), arrays=arrays),),
        scalings={"attention": straight},
        combinations={"": Combination(weights={"attention": 1.0}, scaling=straight, sets=sure)},
        optional=(),
        unusual=Unusual(parts={}, middle=np.zeros(0), axes=np.zeros((0, 0))),
    )
    path = model_path(folder, name)
    save_slide_model(model, path)
    card = {
        "name": name, "task": "slides", "sha256": file_sha256(path), "specimens": ["blood_smear", "marrow_smear"],
        "trained_on": "nothing", "simulated": False, "reads_embedding": True, "limits": ["It is a toy."],
        "classifier": {"name": CLASSIFIER, "sha256": classifier.sha256, "classes": list(classes)},
    }  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps({**card, **changes}))
    return path
