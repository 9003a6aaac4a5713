"""A finished run in a folder, with a real slide, without running the pipeline."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import tifffile
from make_cells import make_cells

from wsi_pipeline.slides import slide_fingerprint

SIZE_PX0 = (1300, 1100)
"""Width and height of the slides, pixels of 0.25 um."""


def make_slide(path: Path, *, seed: int = 0, size_px0: tuple[int, int] = SIZE_PX0) -> Path:
    """Write a light tiled TIFF of noise with dark discs."""
    rng = np.random.default_rng(seed)
    width, height = size_px0
    pixels = np.clip(rng.normal(235, 4, (height, width, 3)), 0, 255).astype(np.uint8)
    yy, xx = np.ogrid[:height, :width]
    for _ in range(30):
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(10, 30)
        pixels[(xx - x) ** 2 + (yy - y) ** 2 < radius**2] = rng.integers(60, 200, 3)
    resolution = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", **resolution)
    return path


def make_run(
    folder: Path,
    slide_ids: tuple[str, ...] = ("a", "b"),
    *,
    n_cells: int = 150,
    working_mpp: float = 0.5,
    embedding: bool = False,
    at: Path | None = None,
) -> Path:
    """Write a run on slides of its own, which lie in ``at``."""
    slides = at or folder.parent / f"{folder.name}-slides"
    slides.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, slide_id in enumerate(slide_ids):
        path = make_slide(slides / f"{slide_id}.tiff", seed=number)
        own = folder / "slides" / slide_id
        own.mkdir(parents=True)
        make_cells(own / "cells.parquet", n_cells, size_px0=SIZE_PX0, seed=number, embedding=embedding)
        summary = {
            "slide_id": slide_id,
            "status": "ok",
            "seconds": 1.0,
            "subject_id": f"P{number}",
            "label": "",
            "mpp": {"x": 0.25, "y": 0.25, "source": "slide"},
            "working_mpp": working_mpp,
            "taxonomy": "pbc-blast",
            "provenance": {
                "slide fingerprint": slide_fingerprint(path),
                "size, level-0 px": f"{SIZE_PX0[0]} x {SIZE_PX0[1]}",
            },
        }
        (own / "summary.json").write_text(json.dumps(summary))
        rows.append({"slide_id": slide_id, "path": path, "specimen": "blood_smear", "status": "ok", "reason": ""})
    with (folder / "slides.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    run = {"configurations": {"blood_smear": {"slides": {}}}, "versions": {"wsi-pipeline": "0.1.0"}}
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def change_row(folder: Path, slide_id: str, /, **values: str) -> None:
    """Change what ``slides.csv`` says of a slide."""
    table = folder / "slides.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows([{**row, **values} if row["slide_id"] == slide_id else row for row in rows])
