"""Draw the two pictures of the README: ``python docs/pictures/make_pictures.py demo``, after ``wsi-pipeline demo``.

``pipeline.svg`` is drawn from the names of the stages, ``result.jpg`` from the demo's virtual marrow and its results.
"""

from __future__ import annotations

import sys
from pathlib import Path

import geopandas as gpd
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.patches import FancyBboxPatch
from shapely.geometry import box

from wsi_pipeline import Box, load_taxonomy, open_slide

_HERE = Path(__file__).resolve().parent
_SLIDE = "demo-marrow-aml"
_PART = Box(x0=1500, y0=1500, x1=2220, y1=2060)

_STAGES = (
    ("slides", "pixels in,\nas scanned"),
    ("regions", "where to look,\nand why not"),
    ("tiling", "blocks on\none lattice"),
    ("segmentation", "pixels to\ncells"),
    ("cells", "measured,\ntyped"),
    ("predictions", "counts to\nan answer"),
    ("exports", "QuPath, tables,\nreports"),
)


def draw_pipeline(out: Path) -> None:
    """Draw the seven stages in a row."""
    figure, axis = plt.subplots(figsize=(11, 1.6))
    for number, (name, what) in enumerate(_STAGES):
        axis.add_patch(
            FancyBboxPatch((number, 0), 0.78, 1, boxstyle="round,pad=0.02", facecolor="#eef2f7", edgecolor="#44546a")
        )
        axis.text(number + 0.39, 0.72, name, ha="center", va="center", fontsize=8.5, fontweight="bold", color="#1f2a3a")
        axis.text(number + 0.39, 0.3, what, ha="center", va="center", fontsize=8.5, color="#1f2a3a")
        if number:
            axis.annotate(
                "", (number - 0.03, 0.5), (number - 0.19, 0.5), arrowprops={"arrowstyle": "->", "color": "#44546a"}
            )
    axis.set(xlim=(-0.1, len(_STAGES) - 0.1), ylim=(-0.1, 1.1))
    axis.set_axis_off()
    # No date: the same names give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "wsi_pipeline"
    figure.savefig(out, bbox_inches="tight", metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def draw_result(demo: Path, out: Path) -> None:
    """Draw a part of the virtual marrow, its cells by class, and the differential beside what was put there."""
    taxonomy = load_taxonomy("pbc-blast")
    colours = {c.code: tuple(v / 255 for v in c.color) for c in taxonomy.classes}
    results = demo / "results"
    cells = gpd.read_parquet(results / "slides" / _SLIDE / "cells.parquet")
    with open_slide(demo / "slides" / f"{_SLIDE}.tiff") as slide:
        pixels = slide.read(_PART, mpp=slide.mpp.x)
    extent = (_PART.x0, _PART.x1, _PART.y1, _PART.y0)
    near = cells[cells.intersects(box(_PART.x0, _PART.y0, _PART.x1, _PART.y1)) & (cells["kind"] == "white")]
    counts = pd.read_csv(results / "differential.csv").query("slide_id == @_SLIDE").dropna(subset=["percent"])
    counts = counts[counts["count"] > 0].sort_values("percent")
    placed = pd.read_csv(demo / "slides" / f"{_SLIDE}.truth.csv")["class"]
    placed = placed[placed.isin(taxonomy.countable("marrow_smear"))].value_counts(normalize=True) * 100

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), width_ratios=(1.3, 1.3, 1), layout="constrained")
    for axis in axes[:2]:
        axis.imshow(pixels, extent=extent)
        axis.set(xlim=extent[:2], ylim=extent[2:])
        axis.set_axis_off()
    near.boundary.plot(ax=axes[1], color=near["class_name"].map(colours), linewidth=1.8, aspect=None)
    axes[0].set_title("a virtual marrow smear of real cells")
    axes[1].set_title("white cells found, coloured by class")
    error = [counts["percent"] - counts["lower"], counts["upper"] - counts["percent"]]
    names = [code.replace("_", " ") for code in counts["class"]]
    axes[2].barh(names, counts["percent"], xerr=error, color=counts["class"].map(colours), capsize=2)
    axes[2].plot(counts["class"].map(placed).fillna(0), names, "k|", markersize=11, label="put on the slide")
    axes[2].set(xlabel="% of nucleated cells, 95 % interval", title="the differential")
    axes[2].tick_params(labelsize=8)
    axes[2].legend(loc="lower right", fontsize=8)
    figure.savefig(out, dpi=90, bbox_inches="tight", facecolor="white", pil_kwargs={"quality": 82, "optimize": True})
    plt.close(figure)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(
            "usage: python docs/pictures/make_pictures.py DEMO, the folder that `wsi-pipeline demo --out DEMO` wrote"
        )
    draw_pipeline(_HERE / "pipeline.svg")
    draw_result(Path(sys.argv[1]), _HERE / "result.jpg")
