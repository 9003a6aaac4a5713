"""Fit a slide-level model: members in folds of patients, weights and calibration from patients that were left out.

The members of the folds are kept and averaged, so that what fixes weights, calibration and conformal sets is what
answers later (cross-conformal prediction), and nothing is fitted twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.assessment.cross_validation import sub_seed
from wsi_pipeline.predictions.assessment.folds import grouped_folds
from wsi_pipeline.predictions.slide_features.feature import FloatArray
from wsi_pipeline.predictions.slide_models.calibration import ConformalSets, Scaling, fit_scaling
from wsi_pipeline.predictions.slide_models.encoder_member import EncoderMember
from wsi_pipeline.predictions.slide_models.ensemble import Combination, SlideEnsemble, combination_key
from wsi_pipeline.predictions.slide_models.inputs import PARTS
from wsi_pipeline.predictions.slide_models.member import Member
from wsi_pipeline.predictions.slide_models.subject import Subject
from wsi_pipeline.predictions.slide_models.unusual import Unusual
from wsi_pipeline.training.slides.members import LABELS, OPTIONAL, TrainingSet, fit_members

IntArray = npt.NDArray[np.int64]

FOLDS = 5
COVERAGE = 0.9
"""Of the conformal sets."""
FAMILIES: Mapping[str, str] = {
    **dict.fromkeys(("composition", LABELS, "forest", "boosted", "tree"), "composition"),
    **dict.fromkeys(PARTS, "mean appearance"),
    **dict.fromkeys(("attention", "morphotypes"), "single cells"),
}
"""Members that read the same; the others are each a family of their own."""
_LEAST_ROWS = 2
_CLIP = 1e-6


@dataclass(frozen=True, kw_only=True)
class FittedModel:
    """A model and what its folds said of patients left out.

    Parameters
    ----------
    held_out
        ``(n, classes)`` probabilities of the training subjects, each by the members that did not see it; weights and
        calibration are fitted to all of these answers.
    fold
        ``(n,)`` that left the subject out.
    cells
        Of each subject the probabilities ``(cells, classes)`` that each cell alone gives, by the same folds; empty
        where no member looks at cells.
    left_out
        Members that could be fitted in some of the folds only.
    margins
        ``(n, classes)`` of the members of each name, of the folds that did not see the subject; NaN where one did not
        answer.
    """

    model: SlideEnsemble
    held_out: FloatArray
    fold: IntArray
    cells: tuple[FloatArray, ...]
    left_out: tuple[str, ...] = ()
    margins: Mapping[str, FloatArray] = field(default_factory=dict)


def fit_slide_model(
    data: TrainingSet,
    names: tuple[str, ...],
    *,
    seed: int,
    folds: int = FOLDS,
    coverage: float = COVERAGE,
    card: Mapping[str, Any] | None = None,
) -> FittedModel:
    """Return a model of the members ``names``, with a card that says at least what it reads.

    Parameters
    ----------
    folds
        Fewer where a class has fewer patients.

    Raises
    ------
    DataError
        A class has fewer than two patients.
    """
    rarest = int(data.patients_of_classes().min())
    if rarest < _LEAST_ROWS:
        raise DataError(f"task {data.task.name}: a class has {rarest} patients; {_LEAST_ROWS} or more are needed")
    fold = grouped_folds(data.labels, data.patients, min(folds, rarest), seed=sub_seed(seed, 0))
    members: list[Member] = []
    held: dict[str, FloatArray] = {}
    plain: dict[str, FloatArray] = {}
    cells: list[dict[str, FloatArray]] = [{} for _ in data.subjects]
    for number in np.unique(fold).tolist():
        own = fit_members(names, data.take(np.flatnonzero(fold != number)), seed=sub_seed(seed, 1, number))
        members += own
        for row in np.flatnonzero(fold == number).tolist():
            told = _margins(own, data.subjects[row])
            _keep(told, row, data, held)
            _keep(_without_labels(own, data.subjects[row], told), row, data, plain)
            cells[row] = _of_cells(own, data.subjects[row])
    left_out = tuple(n for n in held if n not in OPTIONAL and not np.isfinite(held[n]).all())
    for name in left_out:
        for kept in (held, plain, *cells):
            kept.pop(name, None)
    scalings = {}
    for name, margins in held.items():
        there = np.isfinite(margins).all(axis=1)
        scalings[name] = fit_scaling(margins[there], data.labels[there])
    members = [m for m in members if m.name in held]
    optional = tuple(name for name in OPTIONAL if name in held)
    made = {}
    for size in range(len(optional) + 1):
        for extra in combinations(optional, size):
            # Who has no labels is answered by what members say without any, so that is what is weighed and calibrated.
            said = plain if LABELS in optional and LABELS not in extra else held
            found = _combine(extra, optional, said, scalings, data.labels, coverage)
            if found is not None:
                made[combination_key(extra)] = found
    if "" not in made:
        raise DataError(f"task {data.task.name}: too few subjects have what the members {', '.join(names)} read")
    model = SlideEnsemble(
        task=data.task,
        card=card or {},
        members=tuple(members),
        scalings=scalings,
        combinations=made,
        optional=optional,
        unusual=Unusual.fit(data.subjects, fold),
    )
    return FittedModel(
        model=model,
        held_out=np.stack([_told(model, row, held, plain) for row in range(len(data))]),
        fold=fold,
        cells=tuple(
            np.mean([scalings[name].probabilities(m) for name, m in own.items()], axis=0) if own else np.empty((0, 0))
            for own in cells
        ),
        left_out=left_out,
        margins=held,
    )


def _margins(members: Sequence[Member], subject: Subject) -> dict[str, FloatArray]:
    """Return the mean margins ``(classes,)`` of the members of each name that applies to a subject."""
    told: dict[str, list[FloatArray]] = {}
    for member in members:
        if member.applies(subject):
            told.setdefault(member.name, []).append(member.margins(subject, np.ones((1, len(subject.bag))))[0])
    return {name: np.mean(found, axis=0) for name, found in told.items()}


def _without_labels(
    members: Sequence[Member], subject: Subject, told: Mapping[str, FloatArray]
) -> Mapping[str, FloatArray]:
    """Return the margins of a subject without its labels; ``told`` are those with them.

    An encoder answers for the cells that it looked at: others would be read from images anew in every fold.
    """
    if not subject.labelled:
        return told
    found = _margins([m for m in members if m.kind != EncoderMember.kind], subject.unlabelled())
    return {name: found.get(name, own) for name, own in told.items() if name != LABELS}


def _keep(told: Mapping[str, FloatArray], row: int, data: TrainingSet, held: dict[str, FloatArray]) -> None:
    for name, margins in told.items():
        held.setdefault(name, np.full((len(data), data.n_classes), np.nan))[row] = margins


def _of_cells(members: Sequence[Member], subject: Subject) -> dict[str, FloatArray]:
    """Return the margins ``(cells, classes)`` that each cell alone gives, by name."""
    alone: dict[str, list[FloatArray]] = {}
    for member in members:
        if member.applies(subject) and (own := member.cell_margins(subject)) is not None:
            alone.setdefault(member.name, []).append(own)
    return {name: np.mean(found, axis=0) for name, found in alone.items()}


def _skill(p: FloatArray, labels: IntArray) -> float:
    """Return by what part of the class frequencies' log loss the probabilities are better, 0 at least."""
    share = np.bincount(labels, minlength=p.shape[1]) / len(labels)
    trivial = float(-np.log(np.maximum(share[labels], _CLIP)).mean())
    if trivial <= 0:
        return 0.0
    own = -np.log(np.maximum(p[np.arange(len(labels)), labels], _CLIP)).mean()
    return max(0.0, 1.0 - float(own / trivial))


def _skill_of(margins: FloatArray, scaling: Scaling, labels: IntArray) -> float:
    there = np.isfinite(margins).all(axis=1)
    return _skill(scaling.probabilities(margins[there]), labels[there])


def _combine(
    extra: tuple[str, ...],
    optional: tuple[str, ...],
    held: Mapping[str, FloatArray],
    scalings: Mapping[str, Scaling],
    labels: IntArray,
    coverage: float,
) -> Combination | None:
    names = [name for name in held if name not in optional or name in extra]
    if not names:
        return None
    there = np.all([np.isfinite(held[name]).all(axis=1) for name in names], axis=0)
    k = next(iter(held.values())).shape[1]
    if (np.bincount(labels[there], minlength=k) < _LEAST_ROWS).any():
        return None
    weights = family_weights({name: _skill_of(held[name], scalings[name], labels) for name in names})
    margins = sum(weights[name] * scalings[name].scaled(held[name][there]) for name in names)
    scaling = fit_scaling(np.asarray(margins), labels[there])
    sets = ConformalSets.fit(scaling.probabilities(np.asarray(margins)), labels[there], coverage)
    return Combination(weights=weights, scaling=scaling, sets=sets)


def family_weights(skills: Mapping[str, float]) -> dict[str, float]:
    """Return weights of members, adding up to 1, from what each takes off the log loss, 0 to 1.

    A family weighs as the root of its best member's skill: the root lets weaker families speak too, since which is best
    here may not be in another laboratory, and many members that read the same do not outvote one that reads something
    else. Within a family members weigh as their skill.
    """
    families: dict[str, list[str]] = {}
    for name in skills:
        families.setdefault(FAMILIES.get(name, name), []).append(name)
    each: dict[str, float] = {}
    for names in families.values():
        whole, best = sum(skills[name] for name in names), max(skills[name] for name in names)
        each |= {name: math.sqrt(best) * skills[name] / whole if whole > 0 else 0.0 for name in names}
    total = sum(each.values())
    return {name: own / total if total > 0 else 1 / len(each) for name, own in each.items()}


def _told(
    model: SlideEnsemble, row: int, held: Mapping[str, FloatArray], plain: Mapping[str, FloatArray]
) -> FloatArray:
    # A fold may lack an optional member that too few of its patients had.
    able = [name for name, own in held.items() if np.isfinite(own[row]).all()]
    combination = model.combination_with(able)
    said = plain if LABELS in model.optional and LABELS not in able else held
    margins = sum(w * model.scalings[name].scaled(said[name][row]) for name, w in combination.weights.items())
    return combination.scaling.probabilities(np.asarray(margins)[None])[0]
