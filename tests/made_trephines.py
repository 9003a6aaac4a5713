"""Finished runs of trephines without a pipeline: made cells through the package's own tables and summaries."""

from __future__ import annotations

import csv
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from wsi_pipeline.cells.schema import table_schema
from wsi_pipeline.predictions.trephines.megakaryocytes import read_megakaryocytes
from wsi_pipeline.predictions.trephines.phenotypes import PhenotypeModel
from wsi_pipeline.predictions.trephines.sample import trephine_sample
from wsi_pipeline.predictions.trephines.window import MarrowWindow
from wsi_pipeline.sentences import made_of

MPP = 0.5
SIDE_UM = 1600.0
BONE = shapely.box(700, 0, 800, SIDE_UM)
WINDOW = MarrowWindow(marrow=shapely.box(0, 0, SIDE_UM, SIDE_UM).difference(BONE), bone=BONE)

# Diameter, N:C ratio, lobes, nuclear solidity, density over that of other nuclei.
PLAIN = (28.0, 0.45, 3.0, 0.88, 1.0)
STAGHORN = (48.0, 0.35, 8.0, 0.70, 1.0)
DARK = (20.0, 0.70, 1.0, 0.95, 1.6)


@dataclass(frozen=True, kw_only=True)
class MadeTrephine:
    """A trephine of megakaryocytes drawn around three kinds.

    Parameters
    ----------
    mix
        Cells of each kind: plain, large and lobated, small and dark.
    clustered
        Share of cells thrown around few parents instead of anywhere.
    """

    slide_id: str
    mix: tuple[int, int, int] = (40, 0, 0)
    clustered: float = 0.0
    subject: str = ""
    label: str = ""
    seed: int = 0
    specimen: str = "trephine"
    cellularity: float = 50.0
    simulated: bool = False
    cut: int = 0
    summary: Mapping[str, Any] = field(default_factory=dict)


def cells_of(slide: MadeTrephine, n_nuclei: int = 60) -> pa.Table:
    """Return the table of a trephine's cells: megakaryocytes, then other nuclei."""
    rng = np.random.default_rng(slide.seed)
    kind = np.repeat(np.arange(3), slide.mix)
    n = len(kind)
    usual = np.array([PLAIN, STAGHORN, DARK])[kind]
    spread = np.array([3.0, 0.04, 0.6, 0.02, 0.06])
    diameter, nc, lobes, solidity, dark = (usual + spread * rng.normal(size=usual.shape)).T if n else np.empty((5, 0))
    points = WINDOW.raster.draw(n, rng)
    parents = WINDOW.raster.draw(max(1, n // 12), rng)
    near = rng.random(n) < slide.clustered
    points[near] = (parents[rng.integers(len(parents), size=n)] + rng.normal(0, 20, (n, 2)))[near]
    x_um = np.concatenate([points[:, 0], rng.uniform(0, SIDE_UM, n_nuclei)])
    y_um = np.concatenate([points[:, 1], rng.uniform(0, SIDE_UM, n_nuclei)])
    radius = np.concatenate([diameter / 2, np.full(n_nuclei, 3.0)])
    of = np.arange(n + n_nuclei) < n

    def measure(values: np.ndarray) -> pa.Array:
        return pa.array(np.concatenate([values, np.full(n_nuclei, np.nan)]).astype(np.float32), mask=~of)

    od = 0.4 + 0.02 * rng.normal(size=n + n_nuclei)
    values: dict[str, Any] = {
        "cell_id": [str(uuid.uuid5(uuid.NAMESPACE_OID, f"{slide.slide_id}:{i}")) for i in range(n + n_nuclei)],
        "geometry": shapely.to_wkb(shapely.buffer(shapely.points(x_um / MPP, y_um / MPP), radius / MPP)),
        "x_px0": x_um / MPP, "y_px0": y_um / MPP, "x_um": x_um, "y_um": y_um,
        "area_um2": np.pi * radius**2, "perimeter_um": 2 * np.pi * radius,
        "kind": np.where(of, "megakaryocyte", "nucleus").tolist(),
        "class_name": np.where(of, "megakaryocyte", "nucleus").tolist(),
        "class_probability": np.ones(n + n_nuclei),
        "truncated": (np.arange(n + n_nuclei) < slide.cut).tolist(),
        "nc_ratio": measure(nc), "nucleus_area_um2": measure(np.pi * diameter**2 / 4 * nc),
        "nucleus_lobes": measure(np.maximum(1, np.rint(lobes))),
        "nucleus_concavities": measure(np.maximum(0, np.rint(lobes - 1))),
        "nucleus_solidity": measure(solidity), "nucleus_form_factor": measure(solidity - 0.2),
        "nucleus_od": measure(0.4 * dark), "nucleus_od_sd": measure(0.1 + 0.01 * rng.normal(size=n)),
        "nucleus_chromatin": measure(0.05 + 0.005 * rng.normal(size=n)),
        "circularity": measure(np.full(n, 0.8)), "solidity": measure(np.full(n, 0.95)),
        "cell_od_red": od, "cell_od_green": od, "cell_od_blue": od, "seed_x": x_um, "seed_y": y_um,
    }  # fmt: skip
    schema = table_schema((), None)
    columns = []
    for own in schema:
        value = values.get(own.name)
        if value is None:
            columns.append(pa.nulls(n + n_nuclei, own.type))
        elif isinstance(value, pa.Array):
            columns.append(value.cast(own.type))
        else:
            columns.append(pa.array(np.asarray(value).astype(np.int32) if own.name[:4] == "seed" else value, own.type))
    return pa.table(columns, schema=schema)


def make_trephines(
    out: Path, slides: Sequence[MadeTrephine], *, model: PhenotypeModel | None = None, minimum: int = 20
) -> Path:
    """Write a run of trephines as ``run`` does, phenotypes by ``model``."""
    for slide in slides:
        folder = out / "slides" / slide.slide_id
        folder.mkdir(parents=True)
        table = cells_of(slide)
        pq.write_table(table, folder / "cells.parquet", row_group_size=64)
        sample = trephine_sample(
            read_megakaryocytes(folder / "cells.parquet"), WINDOW, mpp=(MPP, MPP),
            cellularity={"percent": slide.cellularity, "n_spaces": 8, "area_mm2": 2.0}, model=model,
            allow_simulated=True, minimum=minimum, confidence=0.95,
        )  # fmt: skip
        (folder / "megakaryocytes.csv").write_text(sample.to_csv(slide.slide_id), encoding="utf-8")
        summary = {
            "slide_id": slide.slide_id, "subject_id": slide.subject, "label": slide.label, "status": "ok",
            "reason": None, "specimen": slide.specimen, "taxonomy": "section", "path": str(folder / "slide.tiff"),
            "n_cells": len(table), "counts": {"kind": {"megakaryocyte": sum(slide.mix), "nucleus": 60}},
            "provenance": {"cell classifier SHA-256": None}, "red_cells": None, "simulated": slide.simulated,
            "confidence": 0.95, "trephine": sample.to_dict(),
            "sentences": made_of(sample.to_dict()), **slide.summary,
        }  # fmt: skip
        (folder / "summary.json").write_text(json.dumps(summary, allow_nan=False), encoding="utf-8")
    with (out / "slides.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["slide_id", "status", "reason"])
        writer.writerows([slide.slide_id, "ok", ""] for slide in slides)
    return out


def two_groups(n: int, *, seed: int = 0, effect: float = 1.0) -> list[MadeTrephine]:
    """Return ``n`` patients, every other one with ET: more large lobated cells, in clusters."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        et = i % 2 == 0
        total = int(rng.integers(28, 40))
        share = float(np.clip(rng.normal(0.25 + 0.25 * effect * et, 0.1), 0, 0.9))
        large = int(total * share)
        found.append(
            MadeTrephine(
                slide_id=f"S{i:03d}",
                subject=f"P{i:03d}",
                label="ET" if et else "reactive",
                mix=(total - large - 4, large, 4),
                clustered=0.5 * effect * et,
                seed=seed * 1000 + i,
                cellularity=float(rng.normal(50 + 10 * effect * et, 10)),
            )
        )
    return found
