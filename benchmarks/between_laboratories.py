"""Measure a cell classifier on another laboratory's cells that no shipped weights were trained on.

``python benchmarks/between_laboratories.py [--model NAME|FILE]`` reads ``wbc-masks`` (Zheng et al., Micron 107:55,
2018; 300 cells, 0.17 um per pixel estimated) under ``WSI_PIPELINE_DATA`` and prints macro-F1 and accuracy with 95 %
bootstrap intervals for the four classes with more than one cell, twice: with all the classifier's answers allowed,
where one outside the four is wrong, and among the four alone.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from pathlib import Path

from wsi_pipeline.evaluation.cells import evaluate_classifier_on_folder

CLASSES = {"1": "neutrophil", "2": "lymphocyte", "3": "monocyte", "4": "eosinophil"}
MPP = 0.17


def link_class_folders(data: Path, folder: Path) -> None:
    """Make ``folder/<class>/<number>.png`` of the set's list."""
    with (data / "classes.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    for row in rows:
        if row[1] in CLASSES:
            name = f"{int(row[0]):03d}.png"
            (folder / CLASSES[row[1]]).mkdir(exist_ok=True)
            (folder / CLASSES[row[1]] / name).symlink_to((data / "images" / name).resolve())


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pbc-blast", help="weights by name or .safetensors file")
    model = parser.parse_args().model
    data = Path(os.environ["WSI_PIPELINE_DATA"]) / "wbc-masks"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        link_class_folders(data, folder)
        for closed in (False, True):
            result = evaluate_classifier_on_folder(folder, model=model, mpp=MPP, map_to="five-part", closed=closed)
            print("among the four classes alone" if closed else "all answers allowed")
            print(result.table(), flush=True)


if __name__ == "__main__":
    main()
