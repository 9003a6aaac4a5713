"""Whether planted megakaryocytes come back: a simulated cohort of trephines, from pixels through the whole pipeline.

``python benchmarks/simulated_trephines.py`` makes patients of four groups (``wsi-pipeline simulate cohort --profile
trephine``), runs the pipeline on their slides (the same call again resumes) and prints

- density, size, lobulation and arrangement of megakaryocytes, and cellularity, as planted and as reported
  (``wsi-pipeline evaluate recovery``), and how many megakaryocytes of each kind were found;
- areas under the ROC curve of ``train slides --task mpn`` on patients left out, with the intervals. They tell nothing
  about patients. With ``--equal-profiles`` labels mean nothing, and the intervals should hold 0.5. Blood counts
  (``patients.csv``) are drawn from the same groups; the study has them alone, the slide alone, and both.

Figures rest on the cut-outs (docs/virtual-trephines.md counts them), not on the hundreds of cells woven of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _harness import HERE, record

from wsi_pipeline.cohort import run_cohort
from wsi_pipeline.evaluation.recovery_report import recovery_report
from wsi_pipeline.evaluation.trephine_recovery import EVERYONE
from wsi_pipeline.predictions.assessment import Plan
from wsi_pipeline.predictions.tasks import load_task
from wsi_pipeline.simulation import make_cohort
from wsi_pipeline.training.slides import SlidesTraining, train_slides
from wsi_pipeline.training.slides_data import CohortRequest

OVERRIDES = {
    "regions.all_below_mm2": 0.0, "regions.cellularity_min_mm2": 0.2, "predictions.min_megakaryocytes": 5,
    "exports.qupath": False, "exports.report": False,
}  # fmt: skip
"""Small cores: tissue is looked for on them too, and few megakaryocytes are reported."""
TASKS = ("mpn", "mpn_subtype")
FOLDS = 5


def areas(run: Path, counts: Path, out: Path, *, seed: int) -> dict[str, list[float | None]]:
    """Return what ``train slides`` finds on patients left out: AUC, its interval (none at 1), patients, by class."""
    found: dict[str, list[float | None]] = {}
    for name in TASKS:
        request = SlidesTraining(
            cohort=CohortRequest(
                runs=(run,), manifest=counts, task=load_task(name), level="patient", ignore_unknown_labels=True
            ),
            kind="fusion",
            name=f"simulated-{name}".replace("_", "-"),
            plan=Plan(folds=FOLDS, repeats=1, null_repeats=0, fractions=(), seed=seed),
            title="simulated trephines",
        )
        study = train_slides(request, out / name).study
        for assessment in study.assessments:
            for own in assessment.per_class:
                key = f"{name}, {assessment.candidate}, {own.name}"
                found[key] = [own.auc.value, own.auc.lower, own.auc.upper, float(study.n)]
    return found


def main() -> None:
    """Make, run, compare, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--seed", type=int, default=12)
    parser.add_argument("--area", type=float, default=2.0, help="mm2 of tissue a slide")
    parser.add_argument("--equal-profiles", action="store_true", help="all patients from one group")
    parser.add_argument("--no-models", action="store_true", help="recovery alone")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--scratch", type=Path, default=Path("build/benchmarks"), help="where cohort and run go")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the result lines")
    args = parser.parse_args()

    name = f"trephines-{args.seed}-{args.area:g}{'-equal' if args.equal_profiles else ''}"
    folder, run = args.scratch / name, args.scratch / f"{name}-run"
    made = make_cohort(
        folder, patients=args.patients, seed=args.seed, area_mm2=args.area, profile="trephine",
        equal_profiles=args.equal_profiles, workers=args.workers, report=print,
    )  # fmt: skip
    assert made.counts is not None
    run_cohort([made.manifest], run, "trephine", overrides={**OVERRIDES, "runtime.workers": args.workers})
    found = recovery_report(run, folder)
    print(found.table)
    auc = {} if args.no_models else areas(run, made.counts, args.scratch / f"{name}-models", seed=args.seed)
    for which, (value, low, high, n) in auc.items():
        interval = "no interval" if low is None or high is None else f"{low:.3f}-{high:.3f}"
        print(f"AUC {which}: {value:.3f} ({interval}), n = {n:.0f}")
    work = {"patients": args.patients, "seed": args.seed, "area_mm2": args.area, "equal": args.equal_profiles}
    everyone = [row for row in found.metrics["recovery"] if row["group"] == EVERYONE]
    figures = {"recovery": everyone, "megakaryocytes": found.metrics["megakaryocytes"], "auc": auc}
    record(args.results, "simulated_trephines", name, work, figures)


if __name__ == "__main__":
    main()
