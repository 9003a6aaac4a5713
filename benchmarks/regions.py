"""Finding the readable part of a smear: what it costs beside the run, and beside reading the slide once.

The slide is a virtual film, with glass, thick end, monolayer and feathered edge.

Measured: seconds from a fresh handle and an empty cache, with one thread; printed also as s/mm2 of the slide, and as
a share of a run that takes ``--run-seconds`` a mm2 of searched area (25 on one CPU core).

Not measured: slides whose only level is the finest, which is read about twice (once for the overview, once for the
squares).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from _harness import Contender, compare, parser, report, start


def search(path: Path) -> Callable[[], dict[str, Any]]:
    from wsi_pipeline.config import RegionsConfig
    from wsi_pipeline.regions import find_regions
    from wsi_pipeline.slides import lattice, open_slide

    def work() -> dict[str, Any]:
        lattice._caches.clear()  # the cache outlives a slide; every call must start without it
        with open_slide(path) as slide:
            regions = find_regions(slide, specimen="blood_smear", config=RegionsConfig(all_below_mm2=0))
        return {"readable_mm2": regions.area_mm2}

    return work


def read_once(path: Path) -> Callable[[], dict[str, Any]]:
    from wsi_pipeline.slides import lattice, open_slide
    from wsi_pipeline.units import Box

    def work() -> dict[str, Any]:
        lattice._caches.clear()
        with open_slide(path) as slide:
            width, height = slide.dimensions
            for y in range(0, height, 2048):
                for x in range(0, width, 2048):
                    slide.read(Box(x0=x, y0=y, x1=min(x + 2048, width), y1=min(y + 2048, height)), slide.mpp.x)
        return {}

    return work


def film(scratch: Path, width: int, height: int) -> Path:
    """Return a virtual film at 0.25 um per pixel, made once and kept in ``scratch``."""
    from wsi_pipeline.simulation import make_virtual_slide

    path = scratch / f"film-{width}x{height}.tiff"
    if not path.is_file():
        print(f"making {path.name} (a few seconds per ten megapixels, once) ...", flush=True)
        make_virtual_slide(path, profile="normal", size_px=(width, height), seed=1, film=True)
    return path


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--width", type=int, default=12288, help="of the virtual film, pixels (default 12288)")
    options.add_argument("--height", type=int, default=8192, help="of the virtual film, pixels (default 8192)")
    options.add_argument("--slide", type=Path, help="another smear instead of a virtual one")
    options.add_argument("--run-seconds", type=float, default=25.0, help="of a run a mm2 searched (default 25)")
    chosen = start(options.parse_args())

    from wsi_pipeline.slides import open_slide

    path = chosen.slide or film(chosen.scratch, chosen.width, chosen.height)
    with open_slide(path) as slide:
        width, height = slide.dimensions
        size_mm2 = width * slide.mpp.x * height * slide.mpp.y * 1e-6
    timings = compare(
        [
            Contender(name="find_regions", prepare=search, arguments=(path,)),
            Contender(name="reading once", prepare=read_once, arguments=(path,)),
        ],
        repeats=chosen.repeats,
    )
    readable = float(timings[0].value["readable_mm2"])
    seconds = min(timings[0].cpu_seconds)
    extra = {
        "seconds a mm2 of the slide": round(seconds / size_mm2, 3),
        "seconds a mm2 found readable": round(seconds / readable, 3) if readable else None,
        "share of a run": round(seconds / (readable * chosen.run_seconds), 4) if readable else None,
    }
    work = {"slide": path.name, "width": width, "height": height, "mm2": round(size_mm2, 2)}
    report(chosen, "regions", "smear", timings, work=work, amount=size_mm2, unit="mm2", extra=extra)


if __name__ == "__main__":
    main()
