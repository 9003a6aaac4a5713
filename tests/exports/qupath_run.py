"""What a run's folder needs to be exported for QuPath."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import shapely
from make_run import SIZE_PX0


def add_regions(folder: Path) -> None:
    """Give every slide of a run the regions and answers that exports read."""
    for number, own in enumerate(sorted((folder / "slides").iterdir())):
        shape = shapely.box(0, 0, *SIZE_PX0)
        region = {
            "type": "Feature", "id": str(uuid.UUID(int=(4 << 76) + number)),
            "geometry": shapely.geometry.mapping(shape),
            "properties": {
                "objectType": "annotation", "name": "Whole slide", "isLocked": True,
                "classification": {"name": "Whole slide", "color": [1, 2, 3]},
                "metadata": {"status": "included", "reason": "all"},
            },
        }  # fmt: skip
        (own / "regions.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [region]}))
        answers = [
            {"task": "aml", "class": "blasts in AML range", "probability": 0.31, "lower": 0.25, "upper": 0.375,
             "probability_of": "myeloid blasts", "abstained": False, "wording": "blasts in AML range (20 % or more)"},
            {"task": "apl", "class": None, "abstained": True, "reason": "no-real-training-data", "wording": None},
        ]  # fmt: skip
        counts = [{"class": "blast", "count": 62, "percent": 31.0, "lower": 25.0, "upper": 37.5,
                   "in_denominator": True}]  # fmt: skip
        summary = json.loads((own / "summary.json").read_text())
        summary |= {"predictions": answers, "differential": counts, "denominator": {"n": 200}, "n_cells": 150}
        (own / "summary.json").write_text(json.dumps(summary))
