"""A shipped network from data to card: folds, the file of their scores, pooled figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.points import PointsResult
from wsi_pipeline.evaluation.segmentation import ImageScore
from wsi_pipeline.training.segmentation import train_shipped as shipped
from wsi_pipeline.training.segmentation.data import SECTION_KINDS, Sample
from wsi_pipeline.training.segmentation.figures import MEGAKARYOCYTE, NUCLEI, Scores, figures
from wsi_pipeline.training.segmentation.fit import RECIPES
from wsi_pipeline.training.segmentation.train_shipped import train_shipped


def score(name: str, tp: int, fp: int, fn: int) -> ImageScore:
    return ImageScore(name=name, n_true=tp + fn, n_pred=tp + fp, tp=(tp, tp), fp=(fp, fp), fn=(fn, fn))


def found(name: str, near: int | None = None) -> PointsResult:
    return PointsResult(name=name, n_points=10, n_pred=11, found=9, n_centres=None if near is None else 11, near=near)


@pytest.fixture
def measured(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int] | None]:
    """Train on two invented fields, measure invented scores, and note which folds were labelled."""
    labelled: list[tuple[int, int] | None] = []
    labels = np.zeros((64, 64), np.int32)
    labels[20:40, 20:40] = 1
    rgb = np.full((64, 64, 3), 230, np.uint8)
    rgb[20:40, 20:40] = (110, 60, 150)

    def load_samples(root: Path, name: str, *, fold: tuple[int, int] | None = None) -> list[Sample]:
        labelled.append(fold)
        one = Sample(
            name="tissue-nuclei/images/a.png", split="train", rgb=rgb, labels=labels,
            kinds=(labels > 0).astype(np.uint8), known=np.ones((64, 64), bool), mpp=0.5,
        )  # fmt: skip
        return [one, replace(one, name="tissue-nuclei/images/b.png", split="test")]

    def measure(root: Path, name: str, weights: Path, device: str, chosen) -> Scores:
        assert weights.with_suffix(".json").is_file()
        scores = Scores()
        for i in range(6):
            if chosen(f"tissue-nuclei/images/{i}.png"):
                scores.add_masks(NUCLEI, model=score(str(i), 8, 1, 1), otsu=score(str(i), 5, 5, 5))
        return scores

    monkeypatch.setattr(shipped, "load_samples", load_samples)
    monkeypatch.setattr(shipped, "measure", measure)
    small = replace(RECIPES["compact-section"], side=32, batch=2, steps=5)
    monkeypatch.setitem(shipped.RECIPES, "compact-section", small)
    monkeypatch.setitem(shipped.FOLD_SHARES, "compact-section", 0.4)
    return labelled


def train(out: Path, **options: int) -> Path:
    return train_shipped(out, out, "compact-section", device="cpu", report=lambda _: None, **options)


def test_every_field_is_measured_once_by_a_network_that_did_not_see_it(
    tmp_path: Path, measured: list[tuple[int, int] | None]
) -> None:
    weights = train(tmp_path, folds=2)
    assert measured == [(0, 2), (1, 2), None]
    card = json.loads(weights.with_suffix(".json").read_text())
    assert card["kinds"] == list(SECTION_KINDS)
    validated = [m for m in card["metrics"] if "2-fold cross-validation by image, networks of 2 steps" in m["on"]]
    (ap50,) = (m for m in validated if m["name"] == "AP50")
    assert ap50["n"] == 6 * 9
    assert ap50["value"] == pytest.approx(0.8)
    assert ap50["baseline"] == pytest.approx(1 / 3)


def test_folds_measured_before_are_not_repeated(tmp_path: Path, measured: list[tuple[int, int] | None]) -> None:
    scores = train(tmp_path, folds=2, fold=1)
    assert scores == tmp_path / "fold-1-of-2" / "scores.json"
    assert measured == [(1, 2)]
    train(tmp_path, folds=2)
    assert measured == [(1, 2), (0, 2), None]


def test_scores_of_another_recipe_are_refused(tmp_path: Path, measured: list[tuple[int, int] | None]) -> None:
    train(tmp_path, folds=2, fold=0)
    with pytest.raises(DataError, match="another recipe"):
        train(tmp_path, folds=2, seed=1)


def test_scores_survive_their_file() -> None:
    scores = Scores()
    scores.add_masks(MEGAKARYOCYTE, model=score("a", 1, 0, 1))
    scores.add_points("cells", model=found("a", 9), otsu=found("a", 2))
    again = Scores.pooled([json.loads(json.dumps(scores.to_dict()))])
    assert again == scores
    assert [f.name for f in figures(again, "here")] == [
        "recall at IoU 0.5",
        "precision at IoU 0.5",
        "F1 of centres within 3 um",
        "recall of points",
        "predicted / true",
    ]  # fmt: skip


def test_points_that_mark_no_centres_have_no_figure_of_centres() -> None:
    scores = Scores()
    scores.add_points("cells", model=found("a"), otsu=found("a"))
    assert [f.name for f in figures(scores, "here")] == ["recall of points", "predicted / true"]
