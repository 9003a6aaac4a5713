"""``report``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from wsi_pipeline.cli.export_slides import Run, Slides


def report(
    run: Run,
    language: Annotated[
        Literal["en", "fr"] | None, typer.Option(help="Language of the reports; that of the run when not given.")
    ] = None,
    slides: Slides = None,
    without_pictures: Annotated[
        bool,
        typer.Option(
            "--without-pictures",
            help="Write the report of a slide that is gone from the tables alone; else it is kept.",
        ),
    ] = False,
) -> None:
    """Write the reports of a run again from its tables: slides, patients and the run. Needs neither GPU nor network."""
    from wsi_pipeline.finished_runs.rerender import Rendered, rerender
    from wsi_pipeline.manifest import list_slides

    def done(result: Rendered) -> None:
        outcome = "written" if result.written else "not written"
        typer.echo(f"{result.slide_id}: {outcome}{': ' if result.problem else ''}{result.problem}", err=True)

    found = rerender(
        run,
        language=language,
        slides=None if slides is None else [(entry.slide_id, entry.path) for entry in list_slides([slides])],
        without_pictures=without_pictures,
        done=done,
    )
    typer.echo(str(run / "report.html"))
    if not all(result.written for result in found):
        raise typer.Exit(1)
