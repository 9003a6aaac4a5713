"""``train``: its commands, a module a subject."""

from __future__ import annotations

import typer

from wsi_pipeline.cli import (
    train_cells,
    train_counts,
    train_generator,
    train_red_cells,
    train_segmentation,
    train_slides,
    train_trephines,
)

app = typer.Typer(help="Train models; a training that was killed resumes.", no_args_is_help=True)
app.command("segmentation")(train_segmentation.segmentation)
app.command("cells")(train_cells.cells)
app.command("evidence")(train_cells.evidence)
app.command("generator")(train_generator.generator)
app.command("red-cells")(train_red_cells.red_cells)
app.command("dysplasia")(train_cells.dysplasia)
app.command("fibrosis")(train_trephines.fibrosis)
app.command("mds-counts")(train_counts.mds_counts)
app.command("counts")(train_counts.counts)
app.command("slides")(train_slides.slides)
app.command("phenotypes")(train_trephines.phenotypes)
