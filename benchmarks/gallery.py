"""A gallery of real single-cell images: patients and cells a second, and memory of all processes together.

    python benchmarks/gallery.py                          2 and 10 patients of 150 images, extrapolated to 100
    python benchmarks/gallery.py --patients 50 100        two sizes of one's own; the larger is the one reported

Images of the 11 classes of Acevedo et al. 2020 under ``$WSI_PIPELINE_DATA/pbc`` are linked into patient and class
folders of a temporary folder, spread evenly, none twice in a patient. Measured is the command ``wsi-pipeline run
--gallery`` in a process of its own, from start to exit, with 2 workers on a CPU, after an untimed run of one small
patient (compilation). Two sizes are run: the difference gives what a patient costs, the rest is starting and stopping.
What 100 patients take is that line continued; it is marked as extrapolated. "cpu s" is the processor time of all
processes, which other work on the machine lengthens little; half of it is what two free cores would need at least.

Memory is the proportional resident size (PSS) of all processes together, read once a second, so that pages
shared between them count once. Not measured: a GPU, slow storage, images other than 180 x 181 px JPEG.

The budget is 100 patients of 150 images in 15 minutes and 1.5 GB. No other program does the same work, so there is no
peer.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _harness import Watcher, parser, print_table, record, start

MPP = 0.198
TARGET_PATIENTS, TARGET_CROPS, BUDGET_S, BUDGET_MIB = 100, 150, 900, 1500
_SAMPLE_S = 1.0


class TotalMemory(Watcher):
    """Peak of the proportional resident size of a process and all its descendants, MiB."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        super().__init__()
        self.peak_mib = 0.0

    def _watch(self) -> None:
        import psutil

        while not self._stop.wait(_SAMPLE_S):
            total = 0.0
            with contextlib.suppress(psutil.Error):
                parent = psutil.Process(self._pid)
                for process in (parent, *parent.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        total += process.memory_full_info().pss / 2**20
            self.peak_mib = max(self.peak_mib, total)


def make_gallery(source: Path, out: Path, patients: int, crops: int) -> Path:
    """Link real images into ``out/<patient>/<class>``, the same for the same arguments."""
    classes = {folder.name: sorted(folder.iterdir()) for folder in sorted(source.iterdir()) if folder.is_dir()}
    if not classes:
        sys.exit(f"{source} holds no class folders; set WSI_PIPELINE_DATA")
    names = list(classes)
    for patient in range(patients):
        for k in range(crops):
            name = names[k % len(names)]
            files = classes[name]
            path = files[(patient * 37 + k // len(names)) % len(files)]
            link = out / f"P{patient:03d}" / name / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    return out


def timed_run(gallery: Path, out: Path, workers: int) -> dict[str, float]:
    """Run the command and return seconds, processor seconds and MiB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    command = [
        sys.executable, "-m", "wsi_pipeline.cli.main", "run", "--gallery", str(gallery), "--mpp", str(MPP),
        "--out", str(out), "--device", "cpu", "--set", f"runtime.workers={workers}",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    with TotalMemory(process.pid) as memory:
        _, said = process.communicate()
    if process.returncode:
        sys.exit(f"the run failed with {process.returncode}:\n{said[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.monotonic() - begun, "cpu_seconds": cpu, "peak_mib": memory.peak_mib}


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--patients", type=int, nargs=2, default=(2, 10), help="patients of the two runs")
    options.add_argument("--crops", type=int, default=TARGET_CROPS, help="images of a patient")
    options.add_argument("--workers", type=int, default=2)
    given = start(options.parse_args())
    data = os.environ.get("WSI_PIPELINE_DATA")
    if not data:
        sys.exit("set WSI_PIPELINE_DATA")
    few, many = sorted(given.patients)
    scratch = Path(tempfile.mkdtemp(prefix="gallery-", dir=given.scratch))
    found: dict[int, dict[str, float]] = {}
    try:
        warm = make_gallery(Path(data) / "pbc", scratch / "warm", 1, 11)
        timed_run(warm, scratch / "warm-out", given.workers)
        for patients in (few, many):
            gallery = make_gallery(Path(data) / "pbc", scratch / f"g{patients}", patients, given.crops)
            found[patients] = timed_run(gallery, scratch / f"out{patients}", given.workers)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    per = {k: (found[many][k] - found[few][k]) / (many - few) for k in ("seconds", "cpu_seconds")}
    scale = given.crops and TARGET_CROPS / given.crops
    whole = {k: found[few][k] + scale * per[k] * TARGET_PATIENTS - per[k] * few for k in per}
    head = ("patients", "images", "seconds", "cpu s", "images/s", "peak MiB")
    rows: list[tuple[str, ...]] = []
    for patients, one in found.items():
        images = patients * given.crops
        figures = (one["seconds"], one["cpu_seconds"], images / one["seconds"], one["peak_mib"])
        rows.append((str(patients), str(images), *(f"{v:,.1f}" for v in figures)))
    images = TARGET_PATIENTS * TARGET_CROPS
    rows.append(
        (
            f"{TARGET_PATIENTS} extrapolated", str(images), f"{whole['seconds']:,.0f}",
            f"{whole['cpu_seconds']:,.0f}", f"{images / whole['seconds']:,.1f}", "",
        )
    )  # fmt: skip
    print(f"\ngallery: {given.workers} workers, {given.crops} images a patient; budget {BUDGET_S} s, {BUDGET_MIB} MB")
    print_table(head, rows)
    print(f"  a patient: {per['seconds']:.1f} s, {per['cpu_seconds']:.1f} s of processor")
    work: dict[str, Any] = {"patients": [few, many], "crops": given.crops, "workers": given.workers}
    runs = {str(n): {k: round(v, 2) for k, v in one.items()} for n, one in found.items()}
    extrapolated = {k: round(v, 1) for k, v in whole.items()}
    record(given.results, "gallery", "pbc", work, {"runs": runs, "extrapolated_to_100": extrapolated})


if __name__ == "__main__":
    main()
