"""``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.errors import ConfigError

app = typer.Typer(help="Write what runs found in other forms.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep the name of a command that is alone in its group."""


@app.command("slide-features")
def slide_features(
    runs: Annotated[list[Path], typer.Argument(help="Folders that `run` wrote, of slides or of galleries.")],
    out: Annotated[Path, typer.Option("--out", help="CSV file to write; the cells behind each value go beside it.")],
    level: Annotated[str, typer.Option(help="patient (its slides pooled) or slide.")] = "patient",
    embedding: Annotated[
        bool, typer.Option("--embedding", help="Also the statistics of the embeddings, hundreds of columns.")
    ] = False,
) -> None:
    """Write the features of each patient or slide as a table, a row a subject, and the cells behind each."""
    from wsi_pipeline.atomic import write_text, writing
    from wsi_pipeline.predictions.bags import list_runs, read_bags
    from wsi_pipeline.predictions.slide_features import feature_table
    from wsi_pipeline.predictions.slide_features.table import table_csv

    if level not in ("patient", "slide"):
        raise ConfigError(f"--level {level!r}: give patient or slide")
    bags = read_bags(runs, level="slide" if level == "slide" else "patient", embedding=embedding)
    for skipped in list_runs(runs)[1]:
        typer.echo(f"without cells: {skipped}", err=True)
    table = feature_table(bags)
    numbers = out.with_name(f"{out.stem}.n.csv")
    with writing(out):
        for path, text in zip((out, numbers), table_csv(bags, table), strict=True):
            write_text(path, text)
    typer.echo(f"{out}: {len(bags)} subjects, {len(table.names)} features; cells behind each: {numbers}")
