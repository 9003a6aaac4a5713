"""Whether the fibrosis index follows the fibres that were planted, on drawn reticulin slides.

``python benchmarks/reticulin.py`` draws slides for training and others for testing (``simulate reticulin``), trains a
model (``train fibrosis``) unless ``--model`` names one, runs the pipeline on the test slides, and prints Spearman's
correlation of the index with the planted density of fibres, beside that of the share of dark pixels, and how often a
denser slide has the higher index. The same call again resumes. The slides are drawn: this shows that the path from
pixels to index works, not how it does on silver-stained marrow. With ``--uneven-stain`` silver is faint to black,
nuclei take it, and there is precipitate, whatever the fibres: the share of dark pixels then follows the stain too.
``--drawings`` measures both on 40 drawings of 400 um, even and uneven, in their known marrow, without the pipeline.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from _harness import HERE, record
from scipy.stats import spearmanr

from wsi_pipeline.cohort import run_cohort
from wsi_pipeline.evaluation.tables import text_table
from wsi_pipeline.predictions.assessment.bootstrap import Estimate, percentile_estimate
from wsi_pipeline.predictions.fibrosis import FibrosisModel, TileGrid, load_fibrosis_model, see_tile
from wsi_pipeline.simulation.reticulin import MPP, DrawnReticulin, draw_reticulin
from wsi_pipeline.simulation.reticulin_cohort import draw_shape, make_reticulin_cohort
from wsi_pipeline.training.fibrosis.train import concordance, train_fibrosis

DRAWS = 2000
GLASS = (246, 245, 241)
"""Of the drawings."""
SIDE_PX = 800
LEAST_MARROW = 0.4
"""As ``fibrosis.min_marrow_share``."""


def read(path: Path) -> dict[str, dict[str, str]]:
    """Return a table by slide."""
    with path.open(encoding="utf-8", newline="") as file:
        return {row["slide_id"]: row for row in csv.DictReader(file)}


def correlation(values: np.ndarray, planted: np.ndarray) -> Estimate:
    """Return Spearman's correlation with a 95 % bootstrap interval over slides."""
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(DRAWS):
        rows = rng.integers(0, len(values), len(values))
        samples.append(float(spearmanr(values[rows], planted[rows]).statistic))
    return percentile_estimate(float(spearmanr(values, planted).statistic), np.array(samples))


def seen(drawn: DrawnReticulin, model: FibrosisModel) -> tuple[float, float]:
    """Return index and share of dark pixels of a drawing, over the tiles of its known marrow."""
    height, width = drawn.marrow.shape
    grid = TileGrid(mpp=MPP, width=width, height=height)
    side, margin = grid.side, grid.margin
    padded = np.pad(drawn.pixels, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    tiles = [
        see_tile(
            padded[y : y + side + 2 * margin, x : x + side + 2 * margin],
            drawn.marrow[y : y + side, x : x + side],
            glass=GLASS,
            mpp=MPP,
            margin=margin,
        )
        for y in range(0, height - side + 1, side)
        for x in range(0, width - side + 1, side)
    ]
    tiles = [tile for tile in tiles if tile.marrow_share >= LEAST_MARROW]
    weights = [tile.marrow_share for tile in tiles]
    index = np.average(model.scaled(model.raw(tiles)), weights=weights)
    return float(index), float(np.average([tile.fibre_share for tile in tiles], weights=weights))


def drawings(slides: int, name: str) -> None:
    """Print and record how index and dark pixels follow the planted density, evenly and unevenly stained."""
    model = load_fibrosis_model(name)
    figures = {}
    for uneven in (False, True):
        planted, values = [], []
        for number in range(slides):
            shape = draw_shape(number, slides, 2, uneven_stain=uneven)
            drawn = draw_reticulin(shape, width=SIDE_PX, height=SIDE_PX, seed=2000 + number)
            planted.append(drawn.density)
            values.append(seen(drawn, model))
        for which, found in zip(("index", "dark pixels"), np.array(values).T, strict=True):
            key = f"{which}, {'uneven' if uneven else 'even'} stain"
            spearman, in_order = correlation(found, np.array(planted)), concordance(found, np.array(planted))
            figures[key] = {"spearman": vars(spearman), "in_order": in_order}
            print(f"{key}: Spearman {spearman}, pairs in order {in_order:.3f}, n {slides}", flush=True)
    work = {"slides": slides, "side_um": SIDE_PX * MPP, "simulated": True, "model": Path(name).name}
    record(HERE / "results", "reticulin", "drawings", work, figures)


def draw(path: Path, planted: np.ndarray, found: dict[str, np.ndarray], grades: np.ndarray) -> None:
    """Write the figure: index with its interval, and dark pixels, against planted density."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8.2, 3.4), dpi=110)
    colours = matplotlib.colormaps["viridis"](grades / 3)
    spread = np.abs(np.stack([found["lower"], found["upper"]]) - found["index"])
    left.errorbar(planted, found["index"], spread, fmt="none", ecolor="#999999", lw=1, zorder=1)
    left.scatter(planted, found["index"], c=colours, edgecolors="black", linewidths=0.5, zorder=2)
    left.set(xscale="log", xlabel="planted fibres, mm per mm² of marrow", ylabel="fibrosis index", ylim=(0, 1))
    right.scatter(planted, found["fibre_share"], c=colours, edgecolors="black", linewidths=0.5)
    right.set(xscale="log", xlabel="planted fibres, mm per mm² of marrow", ylabel="share of dark pixels")
    figure.suptitle("Drawn slides (simulated), not seen in training; colour: simulated grade 0 to 3", fontsize=9)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Draw, train, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "work" / "reticulin")
    parser.add_argument("--train-slides", type=int, default=40)
    parser.add_argument("--test-slides", type=int, default=16)
    parser.add_argument("--area", type=float, default=1.2, help="Of a slide, mm2.")
    parser.add_argument("--uneven-stain", action="store_true", help="Slides stained less well, in both sets.")
    parser.add_argument("--model", help="Use this model instead of training one.")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--drawings", action="store_true", help="40 drawings in their known marrow, no pipeline.")
    options = parser.parse_args()
    if options.drawings:
        drawings(40, options.model or "reticulin-simulated")
        return
    out: Path = options.out
    kind = "-uneven" if options.uneven_stain else ""
    train, test, run = out / f"train{kind}", out / f"test{kind}", out / f"run{kind}"
    model = options.model
    if model is None:
        if not (train / "manifest.csv").is_file():
            make_reticulin_cohort(
                train, slides=options.train_slides, seed=1, area_mm2=options.area, uneven_stain=options.uneven_stain,
                report=print,
            )  # fmt: skip
        weights = out / f"model{kind}" / "reticulin-simulated.safetensors"
        if not weights.is_file():
            train_fibrosis(train / "manifest.csv", weights, folds=3, report=print)
        model = str(weights)
    if not (test / "manifest.csv").is_file():
        make_reticulin_cohort(
            test, slides=options.test_slides, seed=2, area_mm2=options.area, uneven_stain=options.uneven_stain,
            report=print,
        )  # fmt: skip
    result = run_cohort(
        [test / "manifest.csv"],
        run,
        "reticulin",
        overrides={"fibrosis.model": model, "runtime.workers": options.workers},
        allow_simulated=True,
    )
    result.raise_failed()
    truth, rows = read(test / "truth.csv"), read(run / "fibrosis.csv")
    names = sorted(rows, key=lambda name: float(truth[name]["density_mm_per_mm2"]))
    planted = np.array([float(truth[name]["density_mm_per_mm2"]) for name in names])
    grades = np.array([float(truth[name]["grade"]) for name in names])
    columns = ("index", "lower", "upper", "sd", "fibre_share")
    found = {key: np.array([float(rows[name][key]) for name in names]) for key in columns}
    print(
        text_table(
            ("slide", "planted mm/mm2", "grade", "index", "interval", "SD", "dark pixels"),
            [
                (name, f"{p:.1f}", f"{g:.0f}", f"{i:.3f}", f"{low:.3f}-{high:.3f}", f"{sd:.3f}", f"{share:.3f}")
                for name, p, g, i, low, high, sd, share in zip(
                    names, planted, grades, *(found[key] for key in columns), strict=True
                )
            ],
        )
    )
    figures = {
        name: {"spearman": vars(correlation(found[key], planted)), "in_order": concordance(found[key], planted)}
        for name, key in (("index", "index"), ("dark_pixels", "fibre_share"))
    }
    for name, figure in figures.items():
        estimate = Estimate(**figure["spearman"])
        print(f"{name}: Spearman {estimate}, pairs in order {figure['in_order']:.3f}, n {len(names)}")
    if options.figure is not None:
        draw(options.figure, planted, found, grades)
    work = {
        "test_slides": len(names),
        "area_mm2": options.area,
        "simulated": True,
        "uneven_stain": options.uneven_stain,
        "model": Path(model).name,
    }
    record(HERE / "results", "reticulin", "density", work, figures)


if __name__ == "__main__":
    main()
