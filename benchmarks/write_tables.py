"""Write docs/accuracy.md and docs/speed.md from the cards of the shipped weights and the lines in ``results/``.

Nothing is measured here and no figure is typed: what stands on the pages stands in a card or in a result line.
``python benchmarks/write_tables.py`` rewrites both pages; ``tests/test_pages.py`` fails when one is not current.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
_WEIGHTS = _ROOT / "wsi_pipeline" / "weights"
_RESULTS = _ROOT / "benchmarks" / "results"

# Name of the weights: what made the figures, and which figures of the card to show.
_CARDS = {
    "compact-smear": ("wsi-pipeline train segmentation --model compact-smear --data DATA --folds 3", r"."),
    "compact-section": ("wsi-pipeline train segmentation --model compact-section --data DATA --folds 3", r"."),
    "compact-megakaryocyte": ("wsi-pipeline train segmentation --model compact-megakaryocyte --data DATA", r"."),
    "pbc-blast": ("wsi-pipeline train cells --data DATA", r"macro-F1|accuracy|calibration|called blast|source leak"),
    "red-cells": ("wsi-pipeline train red-cells --data DATA --out DIR", r"macro-F1|accuracy|calibration"),
    "reticulin-simulated": ("wsi-pipeline train fibrosis --tiles MANIFEST.csv --folds 3", r"."),
    "acute-leukaemia-counts": ("wsi-pipeline train counts lyon.csv clermont.csv --label Response", r"."),
}

_ACCURACY_HEAD = """\
# Accuracy

Written by `python benchmarks/write_tables.py` from the cards of the shipped weights (`wsi_pipeline/weights/*.json`).
The cards say where each model fails; read them before you use a figure. Intervals are 95 %. The trivial baseline is
the most frequent class, or for networks that find cells Otsu's threshold; *-* where the card has none.

Every figure is of cells, fields or blood counts of public data sets, or of drawn slides where it says so; none is of
patients of your laboratory. The classifier was far worse on another laboratory's cells than on those of its
own: [training-cells.md](training-cells.md#models).
`DATA` is a folder of the [data sets](data-and-licences.md#the-data-sets).
"""

_ACCURACY_TAIL = """\
## More figures, each with its command

| what | where |
|---|---|
| another laboratory's cells | [training-cells.md](training-cells.md#models), `benchmarks/between_laboratories.py` |
| CytologIA's score | [training-cells.md](training-cells.md#cytologias-score) |
| shapes of red cells | [red-cells.md](red-cells.md#the-classifier) |
| dysplasia | [dysplasia-and-attributes.md](dysplasia-and-attributes.md) |
| how often corrected intervals cover the truth | [haematology.md](haematology.md), `benchmarks/correction.py` |
| planted fractions, **simulated** | [virtual-slides.md](virtual-slides.md#cohorts), `benchmarks/simulated_cohort.py` |
| models of slides, **simulated** | [slide-models.md](slide-models.md), `benchmarks/slide_recipes.py` |
| megakaryocytes of trephines | [megakaryocytes.md](megakaryocytes.md) |
| reticulin fibres, **simulated** | [fibrosis.md](fibrosis.md), `benchmarks/reticulin.py` |
| agreement with `cellpose.dynamics` | `benchmarks/dynamics.py --parity` |
"""

_SPEED_HEAD = """\
# Speed and memory

Written by `python benchmarks/write_tables.py` from the last line of each case in `benchmarks/results/`. How it is
measured: [benchmarks/README.md](../benchmarks/README.md). Times are of the machine named; a high load average means
that other work ran beside it, and then only processor time says something. Nothing here was measured on a GPU.
"""

# Case: heading and the command that made it.
_CONTENDERS = {
    ("reading", "native-1"): ("Reading at the slide's own resolution, one thread", "benchmarks/reading.py"),
    ("reading", "native-2"): ("The same, two threads", "benchmarks/reading.py"),
    ("reading", "between-1"): ("Reading between levels, one thread", "benchmarks/reading.py"),
    ("dynamics", "synthetic"): ("Flows to instances, dense synthetic cells", "benchmarks/dynamics.py"),
    ("dynamics", "network"): ("Flows to instances, flows of the compact network", "benchmarks/dynamics.py"),
    ("network", "batch 4, with copies, cpu"): ("The compact network", "benchmarks/network.py"),
    ("qupath_export", "million"): ("Export to QuPath, a million cells", "benchmarks/qupath_export.py --repeats 1"),
    ("qupath_export", "peers"): ("Export to QuPath, 50,000 cells", "benchmarks/qupath_export.py --repeats 1"),
}


def accuracy_page() -> str:
    """Return docs/accuracy.md."""
    parts = [_ACCURACY_HEAD]
    for name, (command, shown) in _CARDS.items():
        card = json.loads((_WEIGHTS / f"{name}.json").read_text(encoding="utf-8"))
        rows = [_metric(m) for m in card["metrics"] if re.search(shown, m["name"]) and m["value"] is not None]
        parts.append(
            f"## {name}\n\n{card['description']} [Card](../wsi_pipeline/weights/{name}.md). `{command}`\n\n"
            "| figure | on | n | value | 95 % interval | trivial baseline |\n|---|---|---|---|---|---|\n"
            + "\n".join(rows)
            + "\n"
        )
    return "\n".join([*parts, _ACCURACY_TAIL])


def _metric(metric: dict[str, Any]) -> str:
    lower, upper, baseline = metric["lower"], metric["upper"], metric["baseline"]
    interval = "-" if lower is None else f"{lower:.3f} to {upper:.3f}"
    told = "-" if baseline is None else f"{baseline:.3f}"
    return f"| {metric['name']} | {metric['on']} | {metric['n']} | {metric['value']:.3f} | {interval} | {told} |"


def speed_page() -> str:
    """Return docs/speed.md."""
    last = {(line["subject"], line["case"]): line for line in _lines()}
    parts = [_SPEED_HEAD, _runs(last["segmentation", "scale"]), _peers(last["segmentation", "smear"])]
    for case, (title, command) in _CONTENDERS.items():
        parts.append(_contenders(last[case], title, command))
    return "\n".join([*parts, _stages(last["segmentation", "stages"]), _gallery(last["gallery", "pbc"])])


def _lines() -> Iterator[dict[str, Any]]:
    for path in sorted(_RESULTS.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def _about(line: dict[str, Any], command: str) -> str:
    machine = line["machine"]
    return (
        f"`python {command}`, {line['date'][:10]}, commit {line['commit']}, {machine['cpu']}, "
        f"{machine['cores']} cores, load average {line['load_average'][0]:.1f}.\n"
    )


def _runs(line: dict[str, Any]) -> str:
    rows = [
        f"| {run['area_mm2']:.1f} | {run['cells']:,} | {run['seconds']:.0f} | {run['mm2_per_s']:.4f} | "
        f"{run['cells_per_s']:.0f} | {run['worker_mib']:.0f} |"
        for run in line["figures"]["runs"]
    ]
    return (
        "## Whole runs on virtual smears, two workers, no GPU\n\n"
        + _about(line, "benchmarks/segmentation.py --cases scale")
        + f"Memory of a worker on the larger over the smaller: {line['figures']['memory']:.2f}; seconds a mm2: "
        f"{line['figures']['s_per_mm2']:.2f}.\n\n"
        "| mm2 | cells | s | mm2/s | cells/s | MiB, largest worker |\n|---|---|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def _peers(line: dict[str, Any]) -> str:
    agreement = line["figures"]["agreement"]
    rows = []
    for run in line["figures"]["runs"]:
        same = agreement.get(run["name"], {})
        told = f"{same['AP at IoU 0.5']:.3f}, {same['AP at IoU 0.9']:.3f}" if same else "-"
        rows.append(
            f"| {run['name']} | {run['seconds']:.0f} | {run['cpu_seconds']:.0f} | {run['cells']:,} | "
            f"{run['worker_mib']:.0f} | {told} |"
        )
    return (
        "## A smear from TIFF to cells, beside other tools\n\nThe same network in each (compact-smear), two workers. "
        + _about(line, "benchmarks/segmentation.py --cases smear")
        + "\n| tool | s | processor s | cells | MiB, largest worker | agreement with ours: AP at IoU 0.5, 0.9 |\n"
        "|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _contenders(line: dict[str, Any], title: str, command: str) -> str:
    amount, unit = line["work"]["amount"], line["work"]["unit"]
    rows = [
        f"| {one['name']} | {one['best_s']:.2f} | {one['cpu_s']:.2f} | {amount / one['best_s']:.3g} | "
        f"{one['peak_mib']:.0f} |"
        for one in line["figures"]["contenders"]
    ]
    return (
        f"## {title}\n\n{_about(line, command)}\n"
        f"| | best s | processor s | {unit}/s | peak MiB |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _stages(line: dict[str, Any]) -> str:
    figures = line["figures"]
    rows = [
        f"| {name} | {seconds:.2f} | {100 * seconds / figures['total']:.1f} |"
        for name, seconds in figures["seconds"].items()
    ]
    return (
        f"## Where the time goes\n\n{figures['area_mm2']:.2f} mm2, {figures['cells']:,} cells, one process. "
        + _about(line, "benchmarks/segmentation.py --cases stages")
        + "\n| step | s | % |\n|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def _gallery(line: dict[str, Any]) -> str:
    sizes = " ".join(str(n) for n in line["work"]["patients"])
    rows = [
        f"| {n} | {run['seconds']:.0f} | {run['cpu_seconds']:.0f} | {run['peak_mib']:.0f} |"
        for n, run in line["figures"]["runs"].items()
    ]
    return (
        f"## Galleries: patients of {line['work']['crops']} single-cell images\n\n"
        + _about(line, f"benchmarks/gallery.py --patients {sizes}")
        + "\n| patients | s | processor s | peak MiB |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def main() -> None:
    """Write both pages."""
    (_ROOT / "docs" / "accuracy.md").write_text(accuracy_page(), encoding="utf-8")
    (_ROOT / "docs" / "speed.md").write_text(speed_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
