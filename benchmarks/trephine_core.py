"""A whole core of a trephine, 2 cm x 2 mm, from opening it to the report: the budget is 10 minutes on 2 cores.

    python benchmarks/trephine_core.py                    40 mm2 of tissue, two workers
    python benchmarks/trephine_core.py --length-mm 2      a tenth of it, for a look

Made once: a virtual core (``simulate --profile trephine``, 0.5 um per pixel) with its bone, fat, nuclei and
megakaryocytes. Measured: ``run --config trephine`` in a process of its own, as benchmarks/pipeline.py measures. Printed
are the time by the clock, that of each stage, and the processor time of all processes, which other load on the machine
hardly changes: divided by the cores it is the time on an idle machine at best, since stages that do not run side by
side come on top. No other program does the same work, so there is no peer.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from _harness import parser, print_table, record, start
from pipeline import run_once

MPP = 0.5
WIDTH_MM = 2.0
BUDGET_S = 600.0
_MARGIN_UM = 120.0


def core(scratch: Path, length_mm: float, workers: int) -> Path:
    """Return a virtual core, made once and kept in ``scratch``."""
    from wsi_pipeline.simulation import make_virtual_slide

    path = scratch / f"trephine-core-{length_mm:g}.tiff"
    if not path.is_file():
        print(f"making {path.name} (some 3 s of processor time a mm2, once) ...", flush=True)
        sides = [round((mm * 1000 + 2 * _MARGIN_UM) / MPP) for mm in (length_mm, WIDTH_MM)]
        make_virtual_slide(path, profile="trephine", size_px=(sides[0], sides[1]), mpp=MPP, seed=5, workers=workers)
    return path


def main() -> None:
    """Make, run, print, record."""
    options = parser(__doc__)
    options.add_argument("--length-mm", type=float, default=20.0, help="length of the core (default 20)")
    options.add_argument("--workers", type=int, default=2, help="workers of the run (default 2)")
    chosen = start(options.parse_args())
    slide = core(chosen.scratch, chosen.length_mm, chosen.workers)
    before = os.getloadavg()
    overrides = {"runtime.device": "cpu", "runtime.threads": chosen.threads, "runtime.workers": chosen.workers}
    with tempfile.TemporaryDirectory(dir=chosen.scratch, prefix="runs-") as folder:
        summary, run = run_once(slide, Path(folder) / "out", "trephine", overrides)
    kinds = summary["counts"]["kind"]
    print(f"\n{run.area_mm2:.1f} mm2 searched, {run.cells:,} cells, {kinds.get('megakaryocyte', 0)} megakaryocytes")
    rows = [
        ("by the clock", f"{run.seconds_with_cluster:.0f}"),
        *((f"  {name}", f"{seconds:.0f}") for name, seconds in run.stages.items()),
        ("processor, all processes", f"{run.cpu_seconds:.0f}"),
        (f"processor over {chosen.workers} cores", f"{run.cpu_seconds / chosen.workers:.0f}"),
        (f"budget on 2 cores, of {chosen.length_mm * WIDTH_MM:g} mm2", f"{BUDGET_S * chosen.length_mm / 20:.0f}"),
    ]
    print_table(("time", "seconds"), rows)
    print(f"  largest worker {run.worker_mib:,.0f} MiB; load before {before[0]:.1f}, after {os.getloadavg()[0]:.1f}")
    work = {"length_mm": chosen.length_mm, "width_mm": WIDTH_MM, "workers": chosen.workers}
    figures = {**run.figures(), "megakaryocytes": kinds.get("megakaryocyte", 0), "load_before": before[0]}
    record(chosen.results, "trephine_core", "run", work, figures)


if __name__ == "__main__":
    main()
