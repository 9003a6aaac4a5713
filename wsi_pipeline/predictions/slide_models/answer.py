"""A model's answer for one slide or patient: a set of classes, probabilities with intervals, evidence, or silence."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from wsi_pipeline.predictions.bags.bag import CellBag
from wsi_pipeline.predictions.slide_features.feature import FloatArray
from wsi_pipeline.predictions.slide_models.decision import decide
from wsi_pipeline.predictions.slide_models.ensemble import SlideEnsemble
from wsi_pipeline.predictions.slide_models.subject import Subject
from wsi_pipeline.predictions.slide_models.unusual import WORDS
from wsi_pipeline.predictions.tasks import Task
from wsi_pipeline.sentences import joined, say

REPLICATES = 200
EVIDENCE = 12
"""Cells that are shown."""
_MOST_SINGLE = 1000
"""Cells of which each alone is left out to see what it says; of larger bags a random part."""
_MOST_WEIGHTS = 4_000_000
"""Weights of cells that are held at once: 32 MB, and a few times that inside a member."""
_QUICK = ("linear", "morphotypes")


@dataclass(frozen=True, kw_only=True)
class SlideAnswer:
    """What a model says of one subject.

    Parameters
    ----------
    task, model
        The question, and the name of the model.
    subject_id, level
        Whose answer it is; ``slide`` or ``patient``.
    probabilities, lower, upper
        Of each class of the task, calibrated, with the interval over cells: how much the answer would change had
        other cells of the same subject been seen. Empty where no probability was worked out.
    class_set
        Classes that the model cannot leave out at its stated coverage, the likeliest first; empty when abstained.
    abstained, reason
        ``too-few-cells``, ``no-real-training-data``, ``out-of-distribution``, ``uncertain`` (no class can be left
        out) or ``contradicts-TASK``.
    n_cells
        Cells of the denominator.
    evidence
        Ids and weights of the cells that weighed most, the weightiest first; weights are shares of all.
    attention
        ``(n,)`` weight of each cell of the bag, in its order; None where nothing was worked out, or of a model that
        does not weigh cells.
    flags
        What is unusual about the subject, in sentences.
    wording
        What a report says; never a diagnosis.
    """

    task: Task
    model: str
    subject_id: str
    level: str
    probabilities: Mapping[str, float]
    lower: Mapping[str, float]
    upper: Mapping[str, float]
    class_set: tuple[str, ...]
    abstained: bool
    reason: str
    n_cells: int
    evidence: tuple[tuple[str, float], ...]
    flags: tuple[str, ...]
    wording: str
    attention: FloatArray | None = field(default=None, repr=False, compare=False)

    def named(self) -> str:
        """Return the classes of the set in words."""
        names = [self.task.get(code).name_en for code in self.class_set]
        return functools.reduce(lambda first, second: say("{first} or {second}", first=first, second=second), names)


def answer(
    model: SlideEnsemble,
    bag: CellBag,
    *,
    confidence: float = 0.95,
    allow_simulated: bool = False,
    counts: Mapping[str, float] | None = None,
) -> SlideAnswer:
    """Return a model's answer.

    Criteria answer through :mod:`wsi_pipeline.predictions.criteria`, with intervals of their own.

    Parameters
    ----------
    confidence
        Of the intervals: percentiles of a bootstrap over cells, whose seed is made of the cells themselves.
    allow_simulated
        Let a model of simulated cohorts answer; otherwise it abstains (``no-real-training-data``).
    counts
        Routine counts of the subject by analyte, canonical units; one that is no number counts as missing.

    Raises
    ------
    DataError, ModelError
        The model cannot read these cells.
    """
    simulated = bool(model.card.get("simulated"))
    known = {name: value for name, value in (counts or {}).items() if math.isfinite(value)}
    subject = Subject(bag=bag.in_order(), counts=known)
    if simulated and not allow_simulated:
        said = say("This model was trained on simulated cohorts alone; it answers with --allow-simulated only.")
        return _silent(model, bag, subject.n_cells, "no-real-training-data", said)
    decided = decide(model, subject)
    p, codes = decided.probabilities, model.task.codes
    if p is None:
        said = say(
            "{n} cells of the denominator; at least {least} are needed.",
            n=decided.n_cells,
            least=model.task.minimum_cells,
        )
        return _silent(model, bag, decided.n_cells, decided.reason, said)
    drawn = np.concatenate([model.resampled(subject, part) for part in _resamples(subject, model)])
    tail = (1 - confidence) / 2
    attention = model.attention(bag)
    weight = _single_effects(model, subject, int(p.argmax())) if attention is None else attention[bag.order]
    low, high = np.minimum(np.quantile(drawn, tail, axis=0), p), np.maximum(np.quantile(drawn, 1 - tail, axis=0), p)
    found = SlideAnswer(
        task=model.task,
        model=str(model.card["name"]),
        subject_id=bag.subject_id,
        level=_level(bag),
        probabilities={code: float(p[i]) for i, code in enumerate(codes)},
        lower={code: float(low[i]) for i, code in enumerate(codes)},
        upper={code: float(high[i]) for i, code in enumerate(codes)},
        class_set=() if decided.reason else decided.kept,
        abstained=bool(decided.reason),
        reason=decided.reason,
        n_cells=decided.n_cells,
        evidence=_evidence(subject, weight),
        flags=tuple(
            say(
                "{what!c} unlike that of the training patients ({times:.1f} times the distance that 2 % of them "
                "passed).",
                what=WORDS[name],
                times=float(d),
            )
            for name, d in decided.beyond.items()
        ),
        wording="",
        attention=attention,
    )
    worded = _worded(found, simulated, confidence)
    return replace(worded, flags=(*worded.flags, *_seen(model, bag)))


def _seen(model: SlideEnsemble, bag: CellBag) -> tuple[str, ...]:
    """Return a caution where the model was trained on the subject, as far as its file says it."""
    why = "" if model.known is None else model.known.why(bag, bag.patient_id)
    if not why:
        return ()
    if why == "patient":
        return (say("The model was trained on a patient of this name; if it is this one, the answer is too sure."),)
    return (say("The model was trained on cells of this subject: the answer is too sure."),)


def _worded(found: SlideAnswer, simulated: bool, confidence: float) -> SlideAnswer:
    top = max(found.probabilities, key=lambda code: found.probabilities[code])
    share = say(
        "{disease} {percent:.0f} % ({level:g} % interval over cells {lower:.0f}-{upper:.0f} %)",
        disease=found.task.get(top).name_en,
        percent=100 * found.probabilities[top],
        level=100 * confidence,
        lower=100 * found.lower[top],
        upper=100 * found.upper[top],
    )
    if found.reason == "out-of-distribution":
        said = say("No answer: {flags}", flags=joined(found.flags))
    elif found.reason == "uncertain":
        said = say("No answer: no class can be left out. Likeliest: {share}.", share=share)
    else:
        said = say(
            "Compatible with {diseases}. Calibrated probability of {share}.", diseases=found.named(), share=share
        )
        if any("apl" in found.task.get(code).states for code in found.class_set):
            said = joined((said, say("APL is not excluded: confirm PML::RARA and coagulation today.")))
    return replace(found, wording=say("Simulated: {said}", said=said) if simulated else said)


def _level(bag: CellBag) -> str:
    return "slide" if bag.slide_ids == (bag.subject_id,) and bag.patient != bag.subject_id else "patient"


def _silent(model: SlideEnsemble, bag: CellBag, n_cells: int, reason: str, wording: str) -> SlideAnswer:
    return SlideAnswer(
        task=model.task, model=str(model.card["name"]), subject_id=bag.subject_id, level=_level(bag),
        probabilities={}, lower={}, upper={}, class_set=(), abstained=True, reason=reason, n_cells=n_cells,
        evidence=(), flags=(), wording=wording,
    )  # fmt: skip


def _resamples(subject: Subject, model: SlideEnsemble) -> Iterator[FloatArray]:
    """Yield how often each cell is drawn, ``(B, n)``, few at a time of large bags; same cells and model, same draws."""
    n = len(subject.bag)
    seed = zlib.crc32("".join(subject.bag.cell_ids.tolist()).encode()) ^ zlib.crc32(str(model.card["sha256"]).encode())
    rng, step = np.random.default_rng(seed), _rows_at_once(n)
    for start in range(0, REPLICATES, step):
        size = min(step, REPLICATES - start)
        yield rng.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)


def _rows_at_once(n: int) -> int:
    return max(1, min(_MOST_WEIGHTS // max(n, 1), REPLICATES))


def _evidence(subject: Subject, weight: FloatArray) -> tuple[tuple[str, float], ...]:
    """Return the cells of most weight."""
    order = np.argsort(-weight, kind="stable")[:EVIDENCE]
    return tuple((str(subject.bag.cell_ids[i]), float(weight[i])) for i in order.tolist() if weight[i] > 0)


def _single_effects(model: SlideEnsemble, subject: Subject, top: int) -> FloatArray:
    """Return by how much the loss of each cell would lower class ``top``, as shares ``(n,)``."""
    n = len(subject.bag)
    rng = np.random.default_rng(zlib.crc32("".join(subject.bag.cell_ids.tolist()).encode()))
    tried = np.arange(n) if n <= _MOST_SINGLE else np.sort(rng.choice(n, _MOST_SINGLE, replace=False))
    # Slide features are too slow to work out for every cell; where all members read them there is no such evidence.
    names = frozenset(m.name for m in model.members if m.kind in _QUICK)
    whole = model.resampled(subject, np.ones((1, n)), names)[0, top]
    effect = np.zeros(n)
    step = _rows_at_once(n)
    for start in range(0, len(tried), step):
        part = tried[start : start + step]
        weights = np.ones((len(part), n))
        weights[np.arange(len(part)), part] = 0.0
        effect[part] = np.maximum(whole - model.resampled(subject, weights, names)[:, top], 0.0)
    total = float(effect.sum())
    return effect / total if total > 0 else effect
