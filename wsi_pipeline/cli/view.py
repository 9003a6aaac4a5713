"""``view``."""

from __future__ import annotations

import tempfile
import threading
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.cli.export_slides import Run, Slides, open_run


def view(
    run: Run,
    port: Annotated[
        int, typer.Option(help="Port of 127.0.0.1, from 0 to 65535; 0 takes any free one.", min=0, max=65535)
    ] = 8724,
    slides: Slides = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
) -> None:
    """Show a run's cells over its slides in TIAToolbox's viewer. Ctrl-C ends it.

    Only this computer can reach it. Annotation stores that are missing or older than the cells are written first.
    """
    from wsi_pipeline.errors import DataError
    from wsi_pipeline.exports.annotation_store import type_colours, write_annotations
    from wsi_pipeline.exports.viewer import view_folders
    from wsi_pipeline.exports.viewer_folders import SUFFIXES, ViewedSlide, can_be_viewed, link_folders

    found, paths = open_run(run, slides, pixels=True)
    viewed, colours = [], {}
    for slide in found.slides:
        path = paths[slide.slide_id]
        if not isinstance(path, Path) or not can_be_viewed(path):
            typer.echo(f"left out: {slide.slide_id}: {path.name}: the viewer opens {', '.join(SUFFIXES)}", err=True)
            continue
        store = slide.folder / "annotations.db"
        if not store.is_file() or store.stat().st_mtime < slide.cells.stat().st_mtime:
            typer.echo(f"{slide.slide_id}: writing {store}", err=True)
            write_annotations(slide.cells, store, taxonomies=slide.taxonomies())
        viewed.append(ViewedSlide(slide_id=slide.slide_id, path=path, store=store))
        colours.update(type_colours(slide.taxonomies()))
    if not viewed:
        raise DataError(f"{run}: the viewer can open none of its slides")

    def ready(address: str) -> None:
        typer.echo(f"{address}\nCtrl-C ends it. Research use only.")
        if browser:  # a browser in the terminal does not return before it is closed
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    with tempfile.TemporaryDirectory(prefix="wsi-view-") as scratch:
        folders = link_folders(viewed, Path(scratch), colours)
        typer.echo(f"starting the viewer on {len(viewed)} slide(s) ...", err=True)
        view_folders(*folders, port=port, log=Path(scratch) / "page.log", ready=ready)
    typer.echo("ended")
