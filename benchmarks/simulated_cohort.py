"""Whether planted fractions come back: a simulated cohort, from pixels through the whole pipeline.

``python benchmarks/simulated_cohort.py`` makes 60 patients of five groups (``wsi-pipeline simulate cohort``), runs the
pipeline on their slides (the same call again resumes) and prints

- how many patients' planted blasts, promyelocytes and dysplastic neutrophils lie within the reported intervals, and how
  far the reports are off (``wsi-pipeline evaluate recovery``);
- where cells are lost: white cells that were not found, and answers, by true class;
- the same fractions corrected by the confusion of the cohort's own cells instead of the card's: that of the patients of
  the other half, who are made of the same cutouts. What this mends and the card's confusion does not, comes of how the
  classifier meets the few cutouts; what it leaves comes of finding cells, or of chance;
- areas under the ROC curve of ``train slides`` on patients left out, by task. They tell nothing about patients. With
  ``--equal-profiles`` labels mean nothing, and the intervals should hold 0.5.

Figures rest on the cutouts (14 blasts, 21 promyelocytes), not on the thousands of cells made of them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _harness import record
from _simulated import auc_text, cohort_parser, held_out, name_of, work_of

from wsi_pipeline.cohort import run_cohort
from wsi_pipeline.evaluation.recovery import DRAWN, EVERYONE, PLACED, RAW, RecoveryEvaluation, evaluate_recovery
from wsi_pipeline.evaluation.recovery_tables import recovery_metrics, recovery_table
from wsi_pipeline.evaluation.simulated import SlideScore, evaluate_simulated
from wsi_pipeline.evaluation.tables import text_table
from wsi_pipeline.predictions.correction import ConfusionTable, correct_proportions
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.simulation import make_cohort
from wsi_pipeline.taxonomies import load_taxonomy
from wsi_pipeline.weights import find_weights

CLASSIFIER, SPECIMEN = "pbc-blast", "blood_smear"
OVERRIDES = {
    "cells.embedding": True, "cells.red_classifier": None, "predictions.min_neutrophils": 30, "exports.qupath": False,
    "exports.report": False,
}  # fmt: skip
"""Red cells are not of the question, and slides of 200 white cells have fewer neutrophils than the usual 100."""
TASKS = ("aml", "apl", "mds", "mds_reactive")


def finding_table(slides: Sequence[SlideScore]) -> str:
    """Return white cells by class: placed whole, found, answered right, and the commonest other answers."""
    answers: Counter[tuple[str, str]] = Counter()
    missed: Counter[str] = Counter()
    for slide in slides:
        answers.update(slide.answers)
        missed.update(slide.missed)
    rows: list[list[object]] = []
    for name in sorted({true for true, _ in answers} | set(missed)):
        mine = Counter({answer: n for (true, answer), n in answers.items() if true == name})
        found = sum(mine.values())
        right = mine.pop(name, 0)
        others = ", ".join(f"{answer} {n}" for answer, n in mine.most_common(3))
        rows.append([name, found + missed[name], found, f"{right / max(found, 1):.3f}", others])
    return text_table(["class", "cells", "found", "right", "other answers"], rows)


def own_confusion(slides: Sequence[SlideScore], card: ConfusionTable) -> ConfusionTable:
    """Return how the classifier answered the cells of some slides; classes without cells keep the card's row."""
    answers: Counter[tuple[str, str]] = Counter()
    for slide in slides:
        answers.update(slide.answers)
    counts = []
    for true, row in zip(card.classes, card.counts, strict=True):
        mine = tuple(answers[true, answer] for answer in card.classes)
        counts.append(mine if sum(mine) else row)
    return ConfusionTable(classes=card.classes, counts=tuple(counts), images="cells of the cohort")


def mended_by_own(run: Path, slides: Sequence[SlideScore], found: RecoveryEvaluation, card: ConfusionTable) -> str:
    """Return the recovery after correction by the confusion of the other half of the patients."""
    halves = [own_confusion(slides[1 - half :: 2], card) for half in (0, 1)]
    inside = [c for c in load_taxonomy(CLASSIFIER).countable(SPECIMEN) if c in card.classes]
    truth = {(r.patient, r.fraction): r for r in found.reported if r.how == RAW}
    rows: list[list[object]] = []
    for fraction in ("blast", "promyelocyte"):
        off, covered = [], Counter[str]()
        for i, slide in enumerate(slides):
            counts = read_summary(run, slide.slide_id)["counts"]["class"]
            # Platelets of the table are those of the segmentation, which the classifier has not seen.
            answered = {c: counts.get(c, 0) for c in card.classes if c != "platelet"}
            value, low, high = correct_proportions(answered, halves[i % 2]).share((fraction,), inside, 0.95)
            planted = truth[slide.slide_id, fraction]
            off.append(100 * value - planted.drawn)
            for name in (DRAWN, PLACED):
                covered[name] += 100 * low - 0.005 <= getattr(planted, name) <= 100 * high + 0.005
        for name in (DRAWN, PLACED):
            low, high = wilson(covered[name], len(slides))
            rows.append([
                fraction, name, len(slides), covered[name], f"{low:.3f}-{high:.3f}",
                f"{np.mean(off):.1f}", f"{np.mean(np.abs(off)):.1f}",
            ])  # fmt: skip
    return text_table(["fraction", "planted", "n", "covered", "95 % of share", "bias", "mean error"], rows)


def read_summary(run: Path, slide_id: str) -> dict[str, Any]:
    """Return a slide's ``summary.json``."""
    return dict(json.loads((run / "slides" / slide_id / "summary.json").read_text(encoding="utf-8")))


def areas(run: Path, cohort: Path, kind: str, out: Path, *, seed: int) -> dict[str, list[float | None]]:
    """Return what ``train slides`` finds on patients left out: AUC, its interval (none at 1), patients, by task."""
    found: dict[str, list[float | None]] = {}
    for name in TASKS:
        study = held_out(
            run, cohort / "manifest.csv", name, kind, out / f"{name}-{kind}",
            name=f"simulated-{name}-{kind}", title="simulated cohort", seed=seed,
        )  # fmt: skip
        own = study.assessments[0].per_class[0]
        found[name] = [own.auc.value, own.auc.lower, own.auc.upper, float(study.n)]
    return found


def main() -> None:
    """Make, run, compare, print, record."""
    parser = cohort_parser(__doc__, patients=60, seed=8, area_mm2=0.25, area_of="mm2 a slide", workers=2)
    parser.add_argument("--kinds", nargs="+", default=["counts"], help="models of train slides: counts, mil, fusion")
    args = parser.parse_args()

    name = name_of("cohort", args)
    folder, run = args.scratch / name, args.scratch / f"{name}-run"
    made = make_cohort(
        folder, patients=args.patients, seed=args.seed, area_mm2=args.area, equal_profiles=args.equal_profiles,
        workers=args.workers, report=print,
    )  # fmt: skip
    overrides = {**OVERRIDES, "runtime.workers": args.workers}
    run_cohort([made.manifest], run, SPECIMEN, overrides=overrides)
    found = evaluate_recovery(run, folder)
    simulated = evaluate_simulated(run, made.slides)
    card = ConfusionTable.from_card(find_weights(CLASSIFIER, "cells").card, SPECIMEN)
    assert card is not None

    print(recovery_table(found))
    print("\nWhite cells that lie whole on a slide\n" + finding_table(simulated.slides))
    print(
        "\nCorrected by the confusion of the other half of the patients\n"
        + mended_by_own(run, simulated.slides, found, card)
    )
    auc = {kind: areas(run, folder, kind, args.scratch / f"{name}-models", seed=args.seed) for kind in args.kinds}
    print("\nAUC of train slides on patients left out (95 %), patients")
    for kind, tasks in auc.items():
        for task, figures in tasks.items():
            print(f"{task}, {kind}: {auc_text(*figures)}")
    everyone = [row for row in recovery_metrics(found)["recovery"] if row["group"] == EVERYONE]
    record(args.results, "simulated_cohort", name, work_of(args), {"recovery": everyone, "auc": auc})


if __name__ == "__main__":
    main()
