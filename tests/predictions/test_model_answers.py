"""Answers of models as rows: which probability is told, agreement between models, silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_slide_model import CLASSIFIER, MINIMUM_CELLS, write_toy

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.predictions.bags import CellBag
from wsi_pipeline.predictions.model_answers import Asked, ask, check_names, without_cells
from wsi_pipeline.predictions.slide_models import SlideEnsemble, load_slide_model
from wsi_pipeline.weights import shipped_weights

N = 30
SURE_YES, SURE_NO = (9.0, -9.0), (-9.0, 9.0)


@pytest.fixture
def bag() -> CellBag:
    """Thirty lymphocytes with drawn embeddings."""
    weights, rng = shipped_weights()[CLASSIFIER], np.random.default_rng(0)
    classes = tuple(weights.card["classes"])
    p = np.full((N, len(classes)), 0.1 / (len(classes) - 1), np.float32)
    p[:, classes.index("lymphocyte")] = 0.9
    return CellBag(
        subject_id="P1", slide_ids=("P1",), specimen="blood_smear", taxonomy=weights.card["taxonomy"], classes=classes,
        classifier_sha256=weights.sha256, cell_ids=np.array([f"c{i:02d}" for i in range(N)], np.str_),
        slide=np.zeros(N, np.int64), probabilities=p, given=np.full(N, -1),
        embedding=rng.normal(0, 1, (N, int(weights.card["network"]["embedding_dim"]))).astype(np.float32),
        morphology=np.empty((N, 0), np.float32), morphology_names=(), attributes=np.empty((N, 0), np.float32),
        attribute_names=(), outlier=None, images=None, sources=(), digests=None, red={}, other_counts={},
    )  # fmt: skip


def asked(models: list[SlideEnsemble], bag: CellBag, allow_simulated: bool = False) -> Asked:
    return ask(
        models, bag, slide_id="P1", subject_id="P1", level="slide", confidence=0.95, allow_simulated=allow_simulated
    )  # fmt: skip


def test_the_probability_is_that_of_the_positive_class_whatever_the_answer(bag: CellBag, tmp_path: Path) -> None:
    for says, class_name, bound in ((SURE_YES, "aml", (0.9, 1.0)), (SURE_NO, "normal", (0.0, 0.1))):
        model = load_slide_model(str(write_toy(tmp_path, class_name, says=says)))
        (one,) = asked([model], bag).predictions
        row = one.row()
        assert row["class"] == class_name
        assert bound[0] <= float(row["lower"]) <= float(row["probability"]) <= float(row["upper"]) <= bound[1]
        assert one.to_dict()["probability_of"] == "calibrated probability of acute myeloid leukaemia"
        assert one.evidence is not None
        assert sum(one.evidence.probabilities.values()) == pytest.approx(1)
        assert one.evidence.limits == ("It is a toy.",)


def test_answers_that_cannot_both_be_are_not_given(bag: CellBag, tmp_path: Path) -> None:
    no_aml = load_slide_model(str(write_toy(tmp_path, "a", says=SURE_NO)))
    apl = load_slide_model(str(write_toy(tmp_path, "b", task="apl_normal", says=SURE_YES)))
    rows = [one.row() for one in asked([no_aml, apl], bag).predictions]
    assert [(r["task"], r["abstained"], r["reason"]) for r in rows] == [
        ("aml", "true", "contradicts-apl_normal"), ("apl_normal", "true", "contradicts-aml"),
    ]  # fmt: skip
    aml = load_slide_model(str(write_toy(tmp_path, "c", says=SURE_YES)))
    assert [one.class_name for one in asked([aml, apl], bag).predictions] == ["aml", "apl"]


def test_weights_are_of_the_cells_in_their_order_and_evidence_is_the_weightiest(bag: CellBag, tmp_path: Path) -> None:
    model = load_slide_model(str(write_toy(tmp_path)))
    found = asked([model], bag)
    weights = found.weights["toy"]
    assert weights.sum() == pytest.approx(1)
    (one,) = found.predictions
    assert one.evidence is not None
    best = one.evidence.cells[0]
    assert best.cell_id == bag.cell_ids[int(weights.argmax())]
    assert best.weight == pytest.approx(weights.max())


def test_who_may_not_answer_says_nothing_of_the_cells(bag: CellBag, tmp_path: Path) -> None:
    made_up = load_slide_model(str(write_toy(tmp_path, simulated=True)))
    silent = asked([made_up], bag)
    assert silent.predictions[0].reason == "no-real-training-data"
    assert (silent.predictions[0].evidence, silent.weights) == (None, {})
    told = asked([made_up], bag, allow_simulated=True).predictions[0]
    assert told.trained_on == "simulated: nothing"
    assert told.evidence is not None
    assert told.evidence.simulated
    few = asked([made_up], bag.take(range(MINIMUM_CELLS - 1)), allow_simulated=True)
    assert few.predictions[0].reason == "too-few-cells"
    assert few.weights == {}
    nobody = asked([made_up], bag.take([]), allow_simulated=True).predictions[0]
    assert (nobody.reason, nobody.n_cells) == ("too-few-cells", 0)
    row = without_cells(made_up, slide_id="P1", subject_id="P1").row()
    assert {k: v for k, v in nobody.row().items() if v != row[k]} == {}


def test_names_of_other_answers_are_refused(tmp_path: Path) -> None:
    for name in ("criteria", "none"):
        with pytest.raises(ConfigError, match=f"named {name}"):
            check_names([load_slide_model(str(write_toy(tmp_path, name)))])
