"""What a trained cell classifier reached on its test split, and whether it answers by source instead of by cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_pipeline.cells.classifier import CellClassifier, Probabilities
from wsi_pipeline.evaluation.baselines import majority_labels
from wsi_pipeline.evaluation.relabel import merge_roll_ups
from wsi_pipeline.evaluation.tables import classification_table, text_table
from wsi_pipeline.predictions.assessment.calibration import calibration
from wsi_pipeline.predictions.assessment.confusion import ClassificationMetrics, evaluate_classification
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.taxonomies import Taxonomy
from wsi_pipeline.training.cards import Figure, figure_of
from wsi_pipeline.training.cells.data import PackedCells

_LOOK_ALIKES = ("blast", "lymphocyte", "monocyte")
_MERGED = ("granulocyte_precursors", "neutrophils")
_MIN_PROBE = 100
_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A classifier's answers on some cells.

    Parameters
    ----------
    truth, answer, source
        Class, answer and set of each cell.
    group
        Near-duplicate group of each cell.
    probability
        Probability of the answer.
    embedding
        float16 ``(n, d)``.
    """

    truth: npt.NDArray[np.str_]
    answer: npt.NDArray[np.str_]
    source: npt.NDArray[np.str_]
    group: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float16]

    def where(self, chosen: npt.NDArray[np.bool_]) -> Answers:
        """Return the answers on the chosen cells."""
        return Answers(**{name: getattr(self, name)[chosen] for name in self.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class Report:
    """Figures and plain-text tables for the card."""

    figures: tuple[Figure, ...]
    tables: dict[str, str]


def answers_on(
    classifier: CellClassifier, cells: PackedCells, index: npt.NDArray[np.int64], groups: npt.NDArray[np.int64]
) -> Answers:
    """Return the classifier's answers on packed cells, each balanced by its own background."""
    return answers_of(typed(classifier, cells, index), classifier.classes, cells, index, groups)


def typed(classifier: CellClassifier, cells: PackedCells, index: npt.NDArray[np.int64]) -> Probabilities:
    """Return what the classifier says of packed cells, each balanced by its own background."""
    return classifier.predict(cells.windows(classifier.window_px, index), cells.background[index])


def answers_of(
    result: Probabilities,
    classes: Sequence[str],
    cells: PackedCells,
    index: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
) -> Answers:
    """Return the most probable classes beside the truth, of what :func:`typed` said of the cells at ``index``."""
    best = result.p.argmax(axis=1)
    return Answers(
        truth=cells.class_names[index],
        answer=np.array(classes)[best],
        source=cells.sources[index],
        group=groups[index],
        probability=result.p[np.arange(len(best)), best],
        embedding=result.embedding,
    )


def report_on(test: Answers, taxonomy: Taxonomy, classes: Sequence[str]) -> Report:
    """Return the figures on the test split: all of it, each set, and the source-leak check.

    Parameters
    ----------
    test
        Answers on the test split.
    taxonomy
        Of the classes; its roll-ups ``granulocyte_precursors`` and ``neutrophils`` give the merged figure.
    classes
        All answers the classifier may give.
    """
    figures: list[Figure] = []
    tables: dict[str, str] = {}
    whole, table = _score(test, classes, "test split, all sets")
    figures += whole
    for source in sorted(set(test.source.tolist())):
        part = test.where(test.source == source)
        present = [c for c in classes if c in set(part.truth.tolist())]
        if len(present) < 2:
            continue
        scored, table = _score(part, present, f"{source} test images")
        figures += scored
        tables[f"{source}: test images by class"] = table
        if all(name in taxonomy.roll_ups for name in _MERGED):
            figures += _merged(part, taxonomy, present, f"{source} test images")
    if not tables:
        tables["Test images by class"] = table
    verdicts = calibration(test.probability, test.truth == test.answer)
    figures.append(
        Figure(name="expected calibration error", on="test split, all sets", n=len(test.truth), value=verdicts.ece)
    )
    tables |= _look_alikes(test, classes)
    figures += _blast_calls(test)
    figures += source_leak(test)
    return Report(figures=tuple(figures), tables=tables)


def source_leak(answers: Answers) -> list[Figure]:
    """Ask a logistic probe on the embedding which of two sets a cell comes from, class by class and in all.

    Only classes both sets have are used, the two sets drawn to equal numbers in each class, so that chance is one
    half. Cross-validated over near-duplicate groups. A figure near 0.5 means that the embedding does not know
    the source; near 1, that a class found in one set only (blast) may be recognised by its source.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    sources = sorted(set(answers.source.tolist()))
    figures = []
    for i, first in enumerate(sources):
        for second in sources[i + 1 :]:
            rng = np.random.default_rng(0)
            chosen: list[npt.NDArray[np.int64]] = []
            for name in sorted(set(answers.truth.tolist())):
                members = [np.flatnonzero((answers.truth == name) & (answers.source == s)) for s in (first, second)]
                count = min(len(m) for m in members)
                chosen += [rng.permutation(m)[:count] for m in members]
            index = np.concatenate(chosen)
            if len(index) < _MIN_PROBE or len(set(answers.group[index].tolist())) < _FOLDS:
                continue
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
            is_second = answers.source[index] == second
            told = cross_val_predict(
                probe,
                answers.embedding[index].astype(np.float64),
                is_second,
                groups=answers.group[index],
                cv=GroupKFold(_FOLDS),
            )
            right = int((told == is_second).sum())
            name = f"source leak: a probe tells {first} from {second} by the embedding (0.5 is best)"
            figures.append(_share(name, "classes both have, equal numbers", right, len(index), baseline=0.5))
    return figures


def _score(part: Answers, classes: Sequence[str], on: str) -> tuple[list[Figure], str]:
    truth = part.truth.tolist()
    groups = [str(g) for g in part.group.tolist()]
    present = [c for c in classes if c in set(truth)]
    metrics = evaluate_classification(truth, part.answer.tolist(), classes=present, groups=groups)
    trivial = evaluate_classification(truth, list(majority_labels(truth)), classes=present)
    figures = [
        figure_of(f"macro-F1, {len(present)} classes", on, metrics.n, metrics.macro_f1, trivial.macro_f1),
        figure_of(f"accuracy, {len(present)} classes", on, metrics.n, metrics.accuracy, trivial.accuracy),
    ]
    return figures, classification_table(metrics, baseline=trivial)


def _merged(part: Answers, taxonomy: Taxonomy, classes: Sequence[str], on: str) -> list[Figure]:
    truth = merge_roll_ups(part.truth.tolist(), taxonomy, _MERGED)
    answers = merge_roll_ups(part.answer.tolist(), taxonomy, _MERGED)
    merged = list(dict.fromkeys(merge_roll_ups(list(classes), taxonomy, _MERGED)))
    if len(merged) == len(classes):
        return []
    metrics: ClassificationMetrics = evaluate_classification(
        truth, answers, classes=merged, groups=[str(g) for g in part.group.tolist()]
    )
    trivial = evaluate_classification(truth, list(majority_labels(truth)), classes=merged)
    name = f"macro-F1, {len(merged)} classes (granulocyte precursors merged, neutrophils merged)"
    return [figure_of(name, on, metrics.n, metrics.macro_f1, trivial.macro_f1)]


def _look_alikes(test: Answers, classes: Sequence[str]) -> dict[str, str]:
    """Return how blasts, lymphocytes and monocytes of each set are answered."""
    rows = []
    for name in _LOOK_ALIKES:
        for source in sorted(set(test.source[test.truth == name].tolist())):
            answers = test.answer[(test.truth == name) & (test.source == source)].tolist()
            others = len(answers) - sum(answers.count(c) for c in _LOOK_ALIKES)
            rows.append([f"{name} ({source})", len(answers), *(answers.count(c) for c in _LOOK_ALIKES), others])
    if not {*_LOOK_ALIKES} <= {*classes}:
        return {}
    header = ["true \\ answered", "cells", *_LOOK_ALIKES, "other"]
    return {"Blast, lymphocyte and monocyte on the test split, by set": text_table(header, rows)}


def _blast_calls(test: Answers) -> list[Figure]:
    """Return how often cells that are no blasts are called blast, by class and set, where a set has blasts."""
    if "blast" not in set(test.truth.tolist()):
        return []
    figures = []
    for name in ("lymphocyte", "monocyte", "promyelocyte"):
        for source in sorted(set(test.source[test.truth == name].tolist())):
            answers = test.answer[(test.truth == name) & (test.source == source)]
            called = int((answers == "blast").sum())
            figures.append(_share(f"share of {name}s called blast", f"{source} test images", called, len(answers)))
    return figures


def _share(name: str, on: str, count: int, n: int, *, baseline: float | None = None) -> Figure:
    lower, upper = wilson(count, n)
    return Figure(name=name, on=on, n=n, value=count / n, lower=lower, upper=upper, baseline=baseline)
