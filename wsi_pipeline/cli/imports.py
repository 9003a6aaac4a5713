"""``import``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.cli.export_slides import Slides
from wsi_pipeline.errors import ConfigError

app = typer.Typer(help="Bring corrections back from other tools.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Bring corrections back from other tools."""


@app.command("qupath")
def qupath(
    sources: Annotated[
        list[Path], typer.Argument(help="GeoJSON that QuPath exported, one file a slide, or folders of such.")
    ],
    run: Annotated[Path, typer.Option("--run", help="Folder of the run whose cells were corrected.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="CSV file of labels to write; RUN/labels.csv if not given.")
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(help="A class that was renamed in QuPath, OLD=NEW; OLD= leaves its cells out; may be repeated."),
    ] = None,
    changed_only: Annotated[
        bool, typer.Option("--changed-only", help="Take only cells whose class was changed; without, all in the files.")
    ] = False,
    slides: Slides = None,
) -> None:
    """Turn classes corrected in QuPath into labels: train cells --data RUN --labels OUT.

    Without --changed-only every object that has a class counts as read by you, changed or not.
    """
    from wsi_pipeline.atomic import writing
    from wsi_pipeline.exports.finished_run import RunSlide, locate_slides, read_finished_run
    from wsi_pipeline.manifest import list_slides
    from wsi_pipeline.slides import SlidePath
    from wsi_pipeline.training.qupath.labels import import_corrections, write_labels

    def locate(slide: RunSlide) -> SlidePath:
        entries = None if slides is None else [(entry.slide_id, entry.path) for entry in list_slides([slides])]
        return locate_slides([slide], entries, given=f"--slides {slides}")[slide.slide_id]

    finished = read_finished_run(run)
    labels, summaries = import_corrections(
        finished, sources, locate=locate, rename=_renames(rename or []), changed_only=changed_only
    )
    for one in summaries:
        typer.echo(
            f"{one.slide_id}: {one.changed} changed, {one.kept} kept, {one.not_typed} of classes that no classifier "
            f"answers with, {one.without_class} without a class, {one.deleted} not in the files, "
            f"{one.unmatched} objects on no cell"
        )
        for change, n in one.changes.items():
            typer.echo(f"  {change}: {n}")
    for slide_id, reason in finished.damaged.items():
        typer.echo(f"left out: {slide_id}: {reason}", err=True)
    target = out or run / "labels.csv"
    with writing(target):
        summary = write_labels(target, labels, summaries)
    counted = Counter(label.label for label in labels)
    typer.echo(f"{target}: {len(labels)} labels; " + ", ".join(f"{n} {code}" for code, n in sorted(counted.items())))
    typer.echo(f"{summary}: what became of every cell")
    if not labels:
        raise typer.Exit(1)


def _renames(assignments: list[str]) -> dict[str, str]:
    """Return new by old class of ``OLD=NEW``."""
    renames: dict[str, str] = {}
    for text in assignments:
        old, equals, new = text.partition("=")
        if not (old.strip() and equals):
            raise ConfigError(f"--rename {text!r}: give OLD=NEW, for example 'Blast cell=blast'")
        renames[old.strip()] = new.strip()
    return renames
