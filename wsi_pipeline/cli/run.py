"""``run`` and ``demo``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from wsi_pipeline.cli.options import AllowSimulated, Assignments, Config, Device, overrides_of
from wsi_pipeline.errors import ConfigError

_INTERRUPTED = 130
_SHOWN = 100
"""Slides that are listed at the end of a run; all are in its tables."""

Slides = Annotated[list[str] | None, typer.Argument(help="Slide files, URLs, folders of slides, or CSV manifests.")]
Out = Annotated[Path, typer.Option("--out", help="Folder for the results; the same command there resumes.")]
Cluster = Annotated[
    str, typer.Option("--cluster", help="local, slurm, srun (inside an allocation), or a Dask scheduler's address.")
]
ClusterFile = Annotated[
    Path | None, typer.Option("--cluster-config", help="YAML file; for slurm default configs/cluster/slurm.yaml.")
]
Dashboard = Annotated[
    str | None, typer.Option("--dashboard", help="HOST:PORT for Dask's dashboard; default a free port of loopback.")
]


def run(
    slides: Slides = None,
    config: Config = None,
    out: Out = Path("wsi-pipeline-out"),
    cluster: Cluster = "local",
    cluster_config: ClusterFile = None,
    dashboard: Dashboard = None,
    device: Device = None,
    mpp: Annotated[
        float | None, typer.Option(help="Microns per pixel of slides that state none, or of a gallery.")
    ] = None,
    force_mpp: Annotated[bool, typer.Option("--force-mpp", help="Let --mpp win over what slides say.")] = False,
    assignments: Assignments = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away earlier results of these slides.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run slides again that failed before.")] = False,
    allow_simulated: AllowSimulated = False,
    share: Annotated[
        bool, typer.Option("--share", help="Share the slides with other processes that are given the same command.")
    ] = False,
    leave: Annotated[
        bool, typer.Option("--leave", help="With --share: end when others work on all slides that are left.")
    ] = False,
    gallery: Annotated[
        Path | None,
        typer.Option(help="Instead of slides: PATIENT/CLASS/images or PATIENT/images of single cells; needs --mpp."),
    ] = None,
    label_taxonomy: Annotated[
        str | None, typer.Option(help="Taxonomy of a gallery's class folders; default the classifier's, then others.")
    ] = None,
    keep_unknown_labels: Annotated[
        bool, typer.Option("--keep-unknown-labels", help="Keep class folders that no taxonomy knows, not compared.")
    ] = False,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out a gallery's images that cannot be used; list them.")
    ] = False,
) -> None:
    """Find, measure and classify every cell; count; answer; export."""
    from wsi_pipeline.cohort import describe_plan, plan_cohort, plan_gallery
    from wsi_pipeline.runtime.clusters import request_cluster

    _check_sources(slides, gallery, force_mpp, label_taxonomy is not None or keep_unknown_labels or skip_unreadable)
    if leave and not share:
        raise ConfigError("--leave goes with --share")
    where = request_cluster(cluster, out, cluster_config, dashboard)
    if gallery is not None:
        plan = plan_gallery(
            gallery,
            out,
            config,
            mpp=mpp,
            overrides=overrides_of(assignments, device),
            label_taxonomy=label_taxonomy,
            keep_unknown_labels=keep_unknown_labels,
            skip_unreadable=skip_unreadable,
            allow_simulated=allow_simulated,
            here=where.is_local,
        )
    else:
        plan = plan_cohort(
            slides or [],
            out,
            config,
            overrides=overrides_of(assignments, device),
            mpp=mpp,
            force_mpp=force_mpp,
            allow_simulated=allow_simulated,
            here=where.is_local,
        )
    if dry_run:
        describe_plan(plan, typer.echo, where)
        return
    how = "no" if not share else "leave" if leave else "stay"
    _execute(plan, cluster=where, restart=restart, retry_failed=retry_failed, share=how)


def _check_sources(slides: list[str] | None, gallery: Path | None, force_mpp: bool, of_galleries: bool) -> None:
    """Refuse neither or both of slides and a gallery, and options that would do nothing."""
    if bool(slides) == (gallery is not None):
        raise ConfigError("give slides, or --gallery DIR" + (", not both: they are two runs" if slides else ""))
    if gallery is not None and force_mpp:
        raise ConfigError("--force-mpp is for slides that state microns per pixel; images of a gallery state none")
    if gallery is None and of_galleries:
        raise ConfigError("--label-taxonomy, --keep-unknown-labels and --skip-unreadable go with --gallery")


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the slides and the results.")] = Path("demo"),
    device: Device = None,
) -> None:
    """Run the pipeline on small slides made from real cells."""
    from wsi_pipeline.cohort import plan_cohort
    from wsi_pipeline.simulation.demo import make_demo_slides

    typer.echo("making three virtual slides from real cells ...", err=True)
    slides = make_demo_slides(out / "slides")
    manifest = out / "slides" / "manifest.csv"
    rows = [f"{slide.path.name},{slide.specimen}" for slide in slides]
    manifest.write_text("\n".join(["slide,specimen", *rows]) + "\n", encoding="utf-8")
    plan = plan_cohort([manifest], out / "results", overrides=overrides_of(None, device))
    _execute(plan)


def _execute(plan: Any, **options: Any) -> None:
    """Run a plan with progress, print the result, and leave with 1 when slides failed."""
    from wsi_pipeline.cohort import execute
    from wsi_pipeline.runtime.process import told_to_end
    from wsi_pipeline.runtime.progress import show_progress

    try:
        with told_to_end(), show_progress(len(plan.jobs)) as progress:
            result = execute(plan, progress=progress, **options)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command resumes", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    _say_result(result)
    if result.failed:
        raise typer.Exit(1)


def _reasons_text(reasons: Mapping[tuple[str, str], int]) -> str:
    """Return how many slides ended how, and of those without an answer why."""
    parts = []
    for state in ("ok", "empty", "failed"):
        why = {reason: n for (status, reason), n in reasons.items() if status == state}
        told = ", ".join(f"{reason} {n}" for reason, n in sorted(why.items(), key=lambda w: (-w[1], w[0])) if reason)
        if why:
            parts.append(f"{sum(why.values())} {state}" + (f" ({told})" if told else ""))
    return ", ".join(parts)


def _short_answer(prediction: dict[str, Any]) -> str:
    """Return class and the proportion behind it; the report has the wording."""
    low, value, high = (100 * prediction[name] for name in ("lower", "probability", "upper"))
    of = prediction.get("probability_of") or "probability"
    return f"{prediction['class']} ({of} {value:.1f} %, {low:.1f}-{high:.1f} %)"


def say_models(what: str, answers: Iterable[Mapping[str, Any]]) -> None:
    """Print how often trained models answered what."""
    said = Counter(
        (a["task"], a["model"], f"abstains: {a['reason']}" if a["abstained"] else a["class"])
        for a in answers
        if a["model"] not in ("criteria", "none")
    )
    for (task, model, answer), n in sorted(said.items()):
        typer.echo(f"{what}, {task} by {model}: {answer} {n}")


def _say_result(result: Any) -> None:
    """Print the summary table and where the report is."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=None)
    for column in ("slide", "specimen", "status", "cells", "counted", "answer", "seconds"):
        table.add_column(column, justify="right" if column in ("cells", "counted", "seconds") else "left")
    for summary in result.summaries[:_SHOWN]:
        answers = [p for p in summary.get("predictions", []) if p["level"] == "slide"]
        first = answers[0] if answers else None
        answer = summary["reason"] or ""
        if first is not None and summary["status"] == "ok":
            answer = f"abstains: {first['reason']}" if first["abstained"] else _short_answer(first)
        cells = [
            summary["slide_id"],
            summary["specimen"],
            summary["status"],
            f"{summary.get('n_cells', 0):,}",
            f"{summary.get('denominator', {}).get('n', 0):,}",
            answer,
            f"{summary['seconds']:.0f}",
        ]
        table.add_row(*(Text(cell) for cell in cells))
    Console().print(table)
    if len(result.summaries) > _SHOWN:
        typer.echo(f"and {len(result.summaries) - _SHOWN} more: {result.out / 'slides.csv'}")
    say_models("slides", (p for s in result.summaries for p in s.get("predictions", [])))
    failed = 0
    reasons: Counter[tuple[str, str]] = Counter()
    for summary in result.summaries:
        reasons[summary["status"], summary["reason"] or ""] += 1
        if summary["status"] == "failed":
            failed += 1
            if failed <= _SHOWN:
                typer.echo(f"{summary['slide_id']}: {summary['warnings'][0]}", err=True)
    typer.echo(f"{len(result.summaries)} slide(s): {_reasons_text(reasons)}")
    if result.left:
        typer.echo(f"{result.left} slide(s) are left to others; the last of them writes the tables and the report")
    else:
        typer.echo(f"report: {result.out / 'report.html'}")
