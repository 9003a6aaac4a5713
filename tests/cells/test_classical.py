"""Classical classifiers on morphology: the numbers of scikit-learn, stored without code, on real cells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.svm import SVC

from wsi_pipeline.cells.classical import FeatureModel
from wsi_pipeline.cells.classifier import load_classifier
from wsi_pipeline.errors import ModelError
from wsi_pipeline.training.cells.classical import SVM, fit_classical
from wsi_pipeline.training.cells.models import ModelChoice
from wsi_pipeline.training.cells.own_request import CellTraining
from wsi_pipeline.training.cells.train_own import train_own_cells


def _features(n_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(120) % n_classes
    x = rng.normal(size=(120, 5)).astype(np.float32) + labels[:, None] * [1, 0, 2, 0, 0]
    split = np.array((["train"] * 8 + ["val", "test"]) * 12)
    return x.astype(np.float32), labels, split


@pytest.mark.parametrize("n_classes", [2, 4])
def test_votes_are_those_of_scikit_learn(n_classes: int) -> None:
    x, labels, split = _features(n_classes)
    tensors, _ = fit_classical("features+svm", x, labels, split, n_classes, 0)
    ours = FeatureModel("features+svm", tensors, n_classes, None)
    scaled = ours.standardised(x)
    peer = SVC(**SVM, class_weight="balanced").fit(scaled[split == "train"], labels[split == "train"])
    theirs = peer.decision_function(scaled)
    logits = ours.logits(x)
    if n_classes == 2:
        assert ((logits[:, 1] > logits[:, 0]) == (theirs > 0)).all()
    else:
        np.testing.assert_allclose(logits, theirs, atol=1e-3)
    missing = x.copy()
    missing[0] = np.nan
    assert np.isfinite(ours.logits(missing)).all()


def test_trees_are_stored_as_json() -> None:
    x, labels, split = _features(3)
    tensors, curve = fit_classical("features+xgboost", x, labels, split, 3, 0)
    assert "learner" in json.loads(tensors["xgboost_json"].tobytes())
    logits = FeatureModel("features+xgboost", tensors, 3, None).logits(x)
    assert (logits.argmax(1) == labels)[split == "train"].mean() > 0.8
    assert curve[-1]["loss"] < curve[0]["loss"]


@pytest.mark.data
def test_real_cells_are_told_by_their_morphology(data_root: Path, tmp_path: Path) -> None:
    for name in ("lymphocyte", "eosinophil"):
        (tmp_path / "cells" / name).mkdir(parents=True)
        for path in sorted((data_root / "pbc" / name).iterdir())[:30]:
            (tmp_path / "cells" / name / path.name).symlink_to(path)
    request = CellTraining(data=tmp_path / "cells", mpp=0.198, model=ModelChoice(name="features+svm"), folds=2)
    weights = train_own_cells(request, tmp_path / "out", report=lambda _: None)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["cross_validation"]["accuracy"]["mean"] > 0.85
    classifier = load_classifier(weights)
    with np.load(tmp_path / "out" / "cells.npz") as stored:
        crops, light = stored["images"][:5, 24:120, 24:120], stored["background"][:5]
    whole = classifier.predict(crops, light, batch_size=4)
    turned = classifier.predict(crops[::-1], light[::-1], batch_size=2)
    assert (turned.p[::-1] == whole.p).all()
    assert np.isfinite(whole.embedding).all()
    card = weights.with_suffix(".json")
    card.write_text(card.read_text().replace('"nc_ratio"', '"nc"'))
    with pytest.raises(ModelError, match="features are not those of this version"):
        load_classifier(weights)
