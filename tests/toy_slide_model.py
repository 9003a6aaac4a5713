"""A model of slides small enough to follow by hand: how much like a lymphocyte the cells are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsi_pipeline.predictions import model_answers, slide_models
from wsi_pipeline.predictions.bags import CellBag
from wsi_pipeline.predictions.slide_models import SlideAnswer
from wsi_pipeline.predictions.tasks import load_task
from wsi_pipeline.weights import shipped_weights

CLASSIFIER = "pbc-blast"


class Toy:
    def __init__(self, card: dict[str, Any]) -> None:
        self.card, self.task = card, load_task(card["slide_task"])

    def probabilities(self, bags: Sequence[CellBag]) -> np.ndarray:
        p = np.array([bag.probabilities[:, bag.classes.index("lymphocyte")].mean() for bag in bags])
        return np.stack([p, 1 - p], axis=1)

    def attention(self, bag: CellBag) -> np.ndarray | None:
        p = bag.probabilities[:, bag.classes.index("lymphocyte")].astype(float) + 0.1
        return p / p.sum()


def toy_answer(model: Toy, bag: CellBag, *, confidence: float, allow_simulated: bool) -> SlideAnswer:
    p = model.probabilities([bag])[0]
    codes = model.task.codes
    silent = model.card["simulated"] and not allow_simulated
    weights = model.attention(bag)
    best = np.argsort(-weights, kind="stable")[:5]
    return SlideAnswer(
        task=model.task,
        model=model.card["name"],
        probabilities=dict(zip(codes, p.tolist(), strict=True)),
        class_set=() if silent else (codes[int(p.argmax())],),
        lower=dict(zip(codes, (p * 0.9).tolist(), strict=True)),
        upper=dict(zip(codes, (1 - (1 - p) * 0.9).tolist(), strict=True)),
        abstained=silent,
        reason="no-real-training-data" if silent else "",
        n_cells=len(bag),
        evidence=tuple((str(bag.cell_ids[i]), float(weights[i])) for i in best),
        flags=(),
        wording="A toy.",
    )


def write_toy(folder: Path, name: str = "toy", **changes: Any) -> Path:
    """Write a toy model and its card; return the file of weights."""
    path = folder / f"{name}.slides.safetensors"
    path.write_bytes(name.encode())
    classifier = shipped_weights()[CLASSIFIER]
    card = {
        "name": name, "task": "slides", "slide_task": "aml", "sha256": hashlib.sha256(name.encode()).hexdigest(),
        "specimens": ["blood_smear", "marrow_smear"], "trained_on": "toys", "simulated": False, "reads_embedding": True,
        "classifier": {"name": CLASSIFIER, "sha256": classifier.sha256}, "limits": ["It is a toy."],
    }  # fmt: skip
    path.with_name(f"{name}.slides.json").write_text(json.dumps({**card, **changes}))
    return path


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        slide_models,
        "load_slide_model",
        lambda name: Toy(json.loads(Path(name).with_name(Path(name).stem + ".json").read_text())),
    )
    monkeypatch.setattr(model_answers, "answer", toy_answer)
