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

from pathlib import Path

from _harness import record
from _simulated import auc_text, cohort_parser, held_out, name_of, work_of

from wsi_pipeline.cohort import run_cohort
from wsi_pipeline.evaluation.recovery_report import recovery_report
from wsi_pipeline.evaluation.trephine_recovery import EVERYONE
from wsi_pipeline.simulation import make_cohort

OVERRIDES = {
    "regions.all_below_mm2": 0.0, "regions.cellularity_min_mm2": 0.2, "predictions.min_megakaryocytes": 5,
    "exports.qupath": False, "exports.report": False,
}  # fmt: skip
"""Small cores: tissue is looked for on them too, and few megakaryocytes are reported."""
TASKS = ("mpn", "mpn_subtype")


def areas(run: Path, counts: Path, out: Path, *, seed: int) -> dict[str, list[float | None]]:
    """Return what ``train slides`` finds on patients left out: AUC, its interval (none at 1), patients, by class."""
    found: dict[str, list[float | None]] = {}
    for name in TASKS:
        study = held_out(
            run, counts, name, "fusion", out / name, name=f"simulated-{name}", title="simulated trephines", seed=seed
        )
        for assessment in study.assessments:
            for own in assessment.per_class:
                key = f"{name}, {assessment.candidate}, {own.name}"
                found[key] = [own.auc.value, own.auc.lower, own.auc.upper, float(study.n)]
    return found


def main() -> None:
    """Make, run, compare, print, record."""
    parser = cohort_parser(__doc__, patients=40, seed=12, area_mm2=2.0, area_of="mm2 of tissue a slide", workers=1)
    parser.add_argument("--no-models", action="store_true", help="recovery alone")
    args = parser.parse_args()

    name = name_of("trephines", args)
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
    for which, figures_of in auc.items():
        print(f"AUC {which}: {auc_text(*figures_of)}")
    everyone = [row for row in found.metrics["recovery"] if row["group"] == EVERYONE]
    figures = {"recovery": everyone, "megakaryocytes": found.metrics["megakaryocytes"], "auc": auc}
    record(args.results, "simulated_trephines", name, work_of(args), figures)


if __name__ == "__main__":
    main()
