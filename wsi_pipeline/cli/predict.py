"""``predict``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Answer for tables of values, without slides.", no_args_is_help=True)


@app.callback()
def _commands() -> None:
    """Answer for tables of values, without slides."""


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
