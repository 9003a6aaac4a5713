"""``predict``."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from wsi_pipeline.cli.run import say_models
from wsi_pipeline.errors import ConfigError

_SAY_EVERY_S = 5.0

app = typer.Typer(help="Answer for finished runs, or for tables of values without slides.", no_args_is_help=True)


@app.command()
def slides(
    runs: Annotated[list[Path], typer.Argument(help="Folders that `run` wrote, of slides or galleries.")],
    model: Annotated[
        list[str], typer.Option("--model", help="Model that `train slides` wrote, or a shipped name; may be repeated.")
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the answers, new or of earlier ones; the runs are not changed.")
    ] = Path("wsi-pipeline-answers"),
    counts: Annotated[
        Path | None,
        typer.Option("--counts", help="CSV table of patients or slides with blood counts, for models that read them."),
    ] = None,
    allow_simulated: Annotated[
        bool, typer.Option("--allow-simulated", help="Let models of simulated cohorts answer; each answer says so.")
    ] = False,
    language: Annotated[Literal["en", "fr"], typer.Option(help="Language of the report.")] = "en",
) -> None:
    """Answer for every slide and patient of finished runs by their cells."""
    from wsi_pipeline.finished_runs.predict import predict_slides

    found = predict_slides(
        runs, out, models=model, counts=counts, allow_simulated=allow_simulated, language=language, progress=_note
    )
    for note in found.notes:
        _note(note)
    for level in ("slide", "patient"):
        say_models(f"{level}s", (answer for s in found.subjects if s.level == level for answer in s.answers))
    typer.echo(f"report: {out / 'report.html'}")
    if found.failed:
        _note(f"failed: {len(found.failed)}, named in {out / 'subjects.csv'}; the others are answered")
        raise typer.Exit(1)


@app.command()
def counts(
    tables: Annotated[list[Path], typer.Argument(help="CSV files of blood counts, one row a patient.")],
    out: Annotated[Path, typer.Option("--out", help="CSV file to write.")],
    model: Annotated[
        str, typer.Option(help="Model, by name or by its .trees.json.gz file.")
    ] = "acute-leukaemia-counts",
    unit: Annotated[
        list[str] | None,
        typer.Option(help="Unit of a column whose name does not say it, COLUMN=UNIT; may be repeated."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also write what each value adds, to OUT's name with .contributions.csv.")
    ] = False,
) -> None:
    """Tell AML, ALL and APL apart by blood counts, where acute leukaemia is established or strongly suspected."""
    from wsi_pipeline.predictions.counts.batch import predict_table
    from wsi_pipeline.predictions.counts.model import load_counts_model
    from wsi_pipeline.predictions.counts.words import PRECONDITION

    _note(PRECONDITION["en"])
    counts = predict_table(
        tables,
        out,
        model=load_counts_model(model),
        units=_units(unit or []),
        explain=explain,
        progress=_rows_answered(),
    )
    for kind, title in (("class", "predicted"), ("trust", "trust"), ("reason", "reason"), ("finding", "remarks")):
        found = {key.removeprefix(f"{kind}:"): n for key, n in counts.items() if key.startswith(f"{kind}:")}
        shown = ", ".join(f"{name or 'none'} {n:,}" for name, n in sorted(found.items()))
        typer.echo(f"{title}: {shown or 'none'}")
    typer.echo(f"{out}: {counts['rows']:,} rows; remarks on values: {out.with_name(f'{out.stem}.findings.csv')}")


def _rows_answered() -> Callable[[int], None]:
    """Return what says every few seconds how many rows are answered."""
    started = said = time.monotonic()

    def progress(rows: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= _SAY_EVERY_S:
            said = now
            _note(f"{rows:,} rows answered, {rows / (now - started):,.0f} rows/s")

    return progress


def _units(assignments: list[str]) -> dict[str, str]:
    """Return the unit by column of ``COLUMN=UNIT``."""
    units = {}
    for text in assignments:
        column, equals, unit = text.partition("=")
        if not (column.strip() and equals and unit.strip()):
            raise ConfigError(f"--unit {text!r}: give COLUMN=UNIT, for example MCHC=g/dL")
        units[column.strip()] = unit.strip()
    return units


@app.command("mds-counts")
def mds_counts(
    table: Annotated[Path, typer.Argument(help="CSV file of analyser values, one row a blood count.")],
    out: Annotated[Path, typer.Option("--out", help="CSV file to write.")],
    model: Annotated[
        Path | None,
        typer.Option(help="Folder that `train mds-counts` wrote; without it every row abstains, none is shipped."),
    ] = None,
    allow_simulated: Annotated[
        bool, typer.Option("--allow-simulated", help="Let a model of simulated values answer; each row says so.")
    ] = False,
) -> None:
    """Tell MDS from non-clonal cytopenia with a tree trained on your own table."""
    from wsi_pipeline.predictions.mds_counts import predict_mds_counts

    answers = predict_mds_counts(table, out, model=model, allow_simulated=allow_simulated, report=_note)
    counts = Counter(answer.reason or answer.predicted for answer in answers)
    typer.echo(f"{out}: {len(answers)} rows; " + ", ".join(f"{name} {n}" for name, n in sorted(counts.items())))


def _note(line: str) -> None:
    typer.echo(line, err=True)
