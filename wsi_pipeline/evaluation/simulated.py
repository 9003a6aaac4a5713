"""A finished run on virtual slides against their truth: cells found by kind, white cells by class, the differential.

A cell of the truth counts when it lies wholly inside what was searched. Rules of matching:
:mod:`wsi_pipeline.evaluation.polygons`, at IoU 0.5, whatever the kind. A cell found under another kind is missed in
its own, false in the other, and counted in the table of kinds. Intervals are by bootstrap over squares of the slides,
or over slides where there are ten or more.

Virtual slides are made of few cut-outs each class, and every cut-out lies there many times. Squares resample places,
not cut-outs, so figures by class vary more from one set of cut-outs to another than their intervals say.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely

from wsi_pipeline.evaluation.polygons import BoolArray, IntArray, match_polygons
from wsi_pipeline.evaluation.run_segmentation import KINDS
from wsi_pipeline.evaluation.segmentation import detection_figures
from wsi_pipeline.evaluation.simulated_data import Cells, FinishedSlide, read_finished_run, read_pred, read_truth
from wsi_pipeline.predictions.assessment.bootstrap import Estimate, bootstrap_units
from wsi_pipeline.predictions.assessment.confusion import ClassificationMetrics, evaluate_classification
from wsi_pipeline.taxonomies import Taxonomy, load_taxonomy

MISSED, NOTHING = "(missed)", "(nothing)"
THRESHOLD = 0.5
SQUARE_UM = 128.0
LARGE_PERCENT = 5.0
"""Classes of at least this share of the truth enter the largest error."""

_SLIDES_FOR_BOOTSTRAP = 10
_MOST_UNITS = 4096


@dataclass(frozen=True, kw_only=True)
class KindScore:
    """Cells of one kind over all slides; ``tp`` are found as this kind."""

    kind: str
    n_true: int
    n_pred: int
    tp: int
    fp: int
    fn: int
    ap50: Estimate
    precision: Estimate
    recall: Estimate
    f1: Estimate


@dataclass(frozen=True, kw_only=True)
class DifferentialError:
    """A class or group on one slide, percent of the denominator; None where there is no such figure."""

    level: str
    name: str
    true: float
    raw: float | None
    corrected: float | None
    lower: float | None
    upper: float | None

    @property
    def covered(self) -> bool | None:
        """Return whether the corrected interval holds the truth, at the two decimals that a run writes."""
        if self.lower is None or self.upper is None:
            return None
        return round(self.lower, 2) <= round(self.true, 2) <= round(self.upper, 2)


@dataclass(frozen=True, kw_only=True)
class SlideScore:
    """One slide: cells by kind (true, predicted, found), its white cells by class, and its differential.

    ``answers`` counts the white cells that were found by (true class, answer), ``missed`` those that were not by class.
    """

    slide_id: str
    specimen: str
    by_kind: dict[str, tuple[int, int, int]]
    n_white: int
    answers: Mapping[tuple[str, str], int]
    missed: Mapping[str, int]
    differential: tuple[DifferentialError, ...]
    not_corrected: str

    def largest_error(self, which: str) -> float | None:
        """Return the largest absolute error, ``raw`` or ``corrected``, over classes of 5 % or more of the truth.

        Classes that the run does not tell apart after correction count as one.
        """
        errors = [
            abs(value - row.true)
            for row in self.differential
            if row.level != "group" and row.true >= LARGE_PERCENT and (value := getattr(row, which)) is not None
        ]
        return max(errors, default=None)


@dataclass(frozen=True, kw_only=True)
class SimulatedEvaluation:
    """What a run reached on virtual slides.

    Parameters
    ----------
    kinds
        Those that the truth or the run has.
    confusion
        True kind by predicted kind; ``(missed)`` is a column and ``(nothing)`` a row.
    classes
        White cells that were found as such; None where no classifier ran.
    resampled
        What the intervals of kinds and classes are drawn over, in words.
    left_out
        Slides without results, with their reasons.
    """

    kinds: tuple[KindScore, ...]
    confusion: dict[str, dict[str, int]]
    classes: ClassificationMetrics | None
    slides: tuple[SlideScore, ...]
    resampled: str
    left_out: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class _Matched:
    """What is kept of a slide: small arrays, no outlines. Units are numbers of squares."""

    score: SlideScore
    counts: dict[str, npt.NDArray[np.float64]]
    pairs: dict[tuple[str, str], int]
    white_true: list[str]
    white_answer: list[str]
    white_unit: IntArray


def evaluate_simulated(
    run: Path, truth: Path, *, progress: Callable[[str], None] = lambda _: None
) -> SimulatedEvaluation:
    """Compare every slide of a finished run with its truth.

    Parameters
    ----------
    run
        A run's folder.
    truth
        Folder with ``<stem>.truth.csv`` for the stem of every slide's file, as ``wsi-pipeline simulate`` writes it.
    progress
        Told each slide's id.

    Raises
    ------
    DataError
        Not the folder of a finished run, a truth is missing or lacks a column, or no slide has results.
    """
    slides, left_out = read_finished_run(run, truth)
    by_slide = len(slides) >= _SLIDES_FOR_BOOTSTRAP
    side = _square_um(slides)
    matched = []
    for slide in slides:
        progress(slide.slide_id)
        matched.append(_match_slide(slide, side))
    return SimulatedEvaluation(
        kinds=tuple(_kind_scores(matched, by_slide=by_slide)),
        confusion=_kind_confusion(matched),
        classes=_classes(matched, slides, by_slide=by_slide),
        slides=tuple(m.score for m in matched),
        resampled="slides" if by_slide else f"squares of {side:g} um",
        left_out=left_out,
    )


def _square_um(slides: Sequence[FinishedSlide]) -> float:
    """Return the side of the squares: doubled until they are not too many to resample."""
    area = sum(slide.region.area * slide.mpp**2 for slide in slides)
    side = SQUARE_UM
    while area / side**2 > _MOST_UNITS:
        side *= 2
    return side


def _match_slide(slide: FinishedSlide, side_um: float) -> _Matched:
    true, pred = read_truth(slide.truth), read_pred(slide.cells)
    ignored = true.truncated | ~_inside(true, slide.region)
    # A cell that is too large is truncated as well; only at the edge is that an excuse.
    near_edge = ~_inside(pred, slide.region.buffer(-2 * slide.working_mpp / slide.mpp))
    cut = (pred.truncated & near_edge) | ~_inside(pred, slide.region)
    # Objects of no kind claim nothing, so they are not false where they stand alone.
    match = match_polygons(
        true.outlines, pred.outlines, ignored=ignored, cut=cut | (pred.kind == "other"), threshold=THRESHOLD
    )
    found = np.flatnonzero(match.partner >= 0)
    partner = match.partner[found]
    true_kind, found_kind = true.kind[found], pred.kind[partner]
    squares = np.unique(
        np.concatenate([_square(true, slide.mpp, side_um), _square(pred, slide.mpp, side_um)]), return_inverse=True
    )[1]
    true_unit, pred_unit = squares[: len(true)], squares[len(true) :]
    n_units = int(squares.max(initial=-1)) + 1
    counts, by_kind = {}, {}
    for kind in KINDS:
        hit = found[(true_kind == kind) & (found_kind == kind)]
        wrong = partner[(true_kind != kind) & (found_kind == kind)]
        lost = found[(true_kind == kind) & (found_kind != kind)]
        false = np.concatenate([np.flatnonzero(match.false & (pred.kind == kind)), wrong])
        missed = np.concatenate([np.flatnonzero(match.missed & (true.kind == kind)), lost])
        units = (true_unit[hit], pred_unit[false], true_unit[missed])
        counts[kind] = np.stack([np.bincount(u, minlength=n_units) for u in units], axis=1).astype(np.float64)
        by_kind[kind] = (len(hit) + len(missed), len(hit) + len(false), len(hit))
    ends = [(true_kind, found_kind)]
    ends.append((true.kind[match.missed], np.full(int(match.missed.sum()), MISSED, object)))
    ends.append((np.full(int(match.false.sum()), NOTHING, object), pred.kind[match.false]))
    pairs: dict[tuple[str, str], int] = {}
    for a, b in ends:
        for pair in zip(a.tolist(), b.tolist(), strict=True):
            pairs[pair] = pairs.get(pair, 0) + 1
    white = (true_kind == "white") & (found_kind == "white")
    named = zip(true.class_name[found[white]].tolist(), pred.class_name[partner[white]].tolist(), strict=True)
    lost_white = true.class_name[
        np.concatenate([found[(true_kind == "white") & ~white], np.flatnonzero(match.missed & (true.kind == "white"))])
    ]
    searched = shapely.contains_xy(slide.region, true.xy)
    rows = _differential(slide, true.class_name[searched & (true.kind == "white")])
    return _Matched(
        score=SlideScore(
            slide_id=slide.slide_id,
            specimen=slide.specimen,
            by_kind={kind: n for kind, n in by_kind.items() if any(n)},
            n_white=int((searched & (true.kind == "white")).sum()),
            answers=Counter(named),
            missed=Counter(lost_white.tolist()),
            differential=rows,
            not_corrected=str(slide.summary.get("differential_corrected", {}).get("reason") or ""),
        ),
        counts=counts,
        pairs=pairs,
        white_true=true.class_name[found[white]].tolist(),
        white_answer=pred.class_name[partner[white]].tolist(),
        white_unit=true_unit[found[white]],
    )


def _inside(cells: Cells, region: shapely.Geometry) -> BoolArray:
    """Return which cells lie wholly inside, by the corners of their bounding boxes first and their outlines then."""
    shapely.prepare(region)
    boxes = shapely.box(*cells.outlines.bounds.T) if len(cells) else np.empty(0, object)
    inside: BoolArray = shapely.covers(region, boxes)
    unsure = np.flatnonzero(~inside & shapely.intersects(region, boxes))
    if len(unsure):
        inside[unsure] = shapely.covers(region, cells.shapes(unsure))
    return inside


def _square(cells: Cells, mpp: float, side_um: float) -> IntArray:
    column, row = np.floor(cells.xy * mpp / side_um).astype(np.int64).T
    return row * (1 << 20) + column


def _kind_scores(matched: Sequence[_Matched], *, by_slide: bool) -> list[KindScore]:
    scores = []
    for kind in KINDS:
        parts = [m.counts[kind] for m in matched]
        units = np.stack([part.sum(axis=0) for part in parts]) if by_slide else np.concatenate(parts)
        tp, fp, fn = (int(v) for v in units.sum(axis=0))
        if tp + fp + fn:
            figures = bootstrap_units(units, detection_figures)
            scores.append(KindScore(kind=kind, n_true=tp + fn, n_pred=tp + fp, tp=tp, fp=fp, fn=fn, **figures))
    return scores


def _kind_confusion(matched: Sequence[_Matched]) -> dict[str, dict[str, int]]:
    total: dict[tuple[str, str], int] = {}
    for one in matched:
        for pair, n in one.pairs.items():
            total[pair] = total.get(pair, 0) + n
    order = (*KINDS, "other")
    known = sorted({end for pair in total for end in pair} - {*order, MISSED, NOTHING})
    ends = [k for k in (*order, *known) if any(k in pair for pair in total)]
    rows = [k for k in (*ends, NOTHING) if any(a == k for a, _ in total)]
    return {a: {b: total.get((a, b), 0) for b in (*ends, MISSED)} for a in rows}


def _classes(
    matched: Sequence[_Matched], slides: Sequence[FinishedSlide], *, by_slide: bool
) -> ClassificationMetrics | None:
    true: list[str] = []
    answers: list[str] = []
    groups: list[str] = []
    for number, (one, slide) in enumerate(zip(matched, slides, strict=True)):
        if slide.classified:
            true += one.white_true
            answers += one.white_answer
            groups += [f"{number}" if by_slide else f"{number}:{unit}" for unit in one.white_unit.tolist()]
    if not true:
        return None
    order = list(dict.fromkeys(code for slide in slides for code in _taxonomy(slide).codes))
    present = sorted(set(true), key=lambda code: (order.index(code) if code in order else len(order), code))
    return evaluate_classification(true, answers, classes=present, groups=groups)


def _taxonomy(slide: FinishedSlide) -> Taxonomy:
    return load_taxonomy(str(slide.summary["taxonomy"]))


def _differential(slide: FinishedSlide, white: npt.NDArray[np.object_]) -> tuple[DifferentialError, ...]:
    """Return the true percentages beside those of the run; empty where the run has no differential.

    The truth is all white cells whose middle was searched, cut ones among them, as the run counts them.
    """
    raw = {row["class"]: row for row in slide.summary.get("differential", [])}
    if slide.specimen == "trephine" or not slide.classified:
        return ()
    taxonomy = _taxonomy(slide)
    names, numbers = np.unique(white.astype(str), return_counts=True)
    counts = dict(zip(names.tolist(), numbers.tolist(), strict=True))
    # A true class that the run's taxonomy does not have is a white cell all the same.
    outside = {c.code for c in taxonomy.classes} - set(taxonomy.countable(slide.specimen))  # type: ignore[arg-type]
    total = sum(n for name, n in counts.items() if name not in outside)
    if not total:
        return ()
    corrected = {(row["level"], row["class"]): row for row in slide.summary["differential_corrected"]["rows"]}
    strange = sorted(set(counts) - set(taxonomy.codes))
    wanted: list[tuple[str, str, tuple[str, ...]]] = [
        ("class", code, (code,)) for code in (*taxonomy.classifier_classes, *strange) if code not in outside
    ]
    wanted += [(level, name, tuple(row["members"])) for (level, name), row in corrected.items() if level != "class"]
    rows = []
    for level, name, members in wanted:
        mine = corrected.get((level, name), {})
        shares = [raw[code]["percent"] for code in members if code in raw and raw[code]["percent"] is not None]
        rows.append(
            DifferentialError(
                level=level,
                name=name,
                true=100 * sum(counts.get(code, 0) for code in members) / total,
                raw=math.fsum(shares) if shares else None,
                corrected=mine.get("percent"),
                lower=mine.get("lower"),
                upper=mine.get("upper"),
            )
        )
    return tuple(rows)
