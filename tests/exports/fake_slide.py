"""A slide that is an array, and the result folder that a report reads."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wsi_pipeline.errors import CorruptTileError
from wsi_pipeline.units import Box, FrameTransform


@dataclass(frozen=True, kw_only=True)
class FakeMpp:
    x: float
    y: float
    source: str = "slide"


@dataclass(kw_only=True)
class FakeSlide:
    """What a report uses of a slide; nearest-neighbour reading, white outside."""

    pixels: np.ndarray
    mpp: FakeMpp
    corrupt: bool = False
    origin: tuple[int, int] = (0, 0)
    reads: list[Box] = field(default_factory=list)

    @property
    def dimensions(self) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def bounds(self) -> Box:
        return Box(x0=self.origin[0], y0=self.origin[1], x1=self.dimensions[0], y1=self.dimensions[1])

    def frame(self, mpp: float) -> FrameTransform:
        return FrameTransform(scale_x=mpp / self.mpp.x, scale_y=mpp / self.mpp.y)

    def read(self, box: Box, mpp: float) -> np.ndarray:
        if self.corrupt:
            raise CorruptTileError("slide <b>x</b>: level 0, tile 3 cannot be decoded")
        self.reads.append(box)
        frame = self.frame(mpp)
        x = np.floor((np.arange(box.x0, box.x1) + 0.5) * frame.scale_x).astype(int)
        y = np.floor((np.arange(box.y0, box.y1) + 0.5) * frame.scale_y).astype(int)
        out = np.full((box.height, box.width, 3), 255, np.uint8)
        inx, iny = (x >= 0) & (x < self.dimensions[0]), (y >= 0) & (y < self.dimensions[1])
        out[np.ix_(iny, inx)] = self.pixels[np.ix_(y[iny], x[inx])]
        return out


def wilson(k: int, n: int) -> tuple[float, float]:
    p, z = k / n, 1.96
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return 100 * (middle - half) / (1 + z * z / n), 100 * (middle + half) / (1 + z * z / n)


def summary(counts: dict[str, int], *, slide_id: str = "slide-1", **changes: Any) -> dict[str, Any]:
    """Return a summary.json as a run writes it."""
    n = sum(counts.values())
    rows = []
    for code, k in counts.items():
        lower, upper = wilson(k, n)
        rows.append(
            {"class": code, "count": k, "percent": 100 * k / n, "lower": lower, "upper": upper, "in_denominator": True}
        )
    rows.append(
        {"class": "artefact", "count": 7, "percent": None, "lower": None, "upper": None, "in_denominator": False}
    )
    data: dict[str, Any] = {
        "slide_id": slide_id,
        "specimen": "blood_smear",
        "status": "ok",
        "reason": "",
        "path_name": f"{slide_id}.svs",
        "mpp": {"x": 0.2, "y": 0.2, "source": "slide"},
        "working_mpp": 0.25,
        "area_mm2": 0.24,
        "n_cells": n + 7 + 400,
        "counts": {"kind": {"white": n + 7, "red": 380, "platelet": 20}, "class": counts},
        "differential": rows,
        "denominator": {"n": n, "wording": "nucleated white cells, without nucleated red cells and smudged cells"},
        "indices": [
            {"name": "platelets_per_1000_red_cells", "value": 52.6, "lower": 32.0, "upper": 81.0, "unit": "per 1000",
             "definition": "platelets per 1,000 red cells"},
            {"name": "me_ratio", "value": None, "lower": None, "upper": None, "unit": "ratio",
             "note": "no erythroid cell"},
        ],
        "predictions": [
            {"level": "slide", "task": "aml", "class": "aml_range", "probability": 0.31, "lower": 0.25, "upper": 0.37,
             "probability_of": "blasts (lineage not determined by morphology alone)", "abstained": False,
             "reason": None, "n_cells": n, "model": "criteria", "trained_on": "criteria",
             "wording": "blasts in AML range (20 % or more)", "notes": ["The interval covers the error of counting."]},
            {"level": "slide", "task": "mds", "class": None, "probability": None, "lower": None, "upper": None,
             "abstained": True, "reason": "no-dysplasia-classes", "n_cells": n, "model": "criteria",
             "trained_on": "criteria", "wording": "MDS is not judged."},
            {"level": "slide", "task": "apl", "class": "no_alert", "probability": 0.02, "lower": 0.0, "upper": 0.1,
             "abstained": False, "reason": "few-cells", "n_cells": n, "model": "toy", "trained_on": "simulated",
             "wording": "No APL alert."},
        ],
        "quality": {"truncated": 12, "mean_cell_probability": 2.71828, "focus": "good", "median_area_um2": 61.25},
        "provenance": {"version": "0.1.0", "slide_fingerprint": "ab" * 32, "segmentation_model": "compact-smear"},
        "timings": {"segmentation": 83.2, "classification": 4.25},
        "warnings": [],
    }  # fmt: skip
    return {**data, **changes}


def write_summary(folder: Path, data: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(data))
