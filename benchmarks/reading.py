"""Reading blocks of a JPEG-tiled slide: Slide.read against the bare codec, OpenSlide, TIAToolbox and libvips.

The slide is tiled from real smear fields (Chula RBC-12), an Aperio-like SVS that every reader opens its usual way.

Measured: megapixels delivered as RGB arrays, block by block in raster order, from fresh handles and an empty cache; at
the slide's own resolution ("native"), where the bare codec decodes the same tiles once each and does nothing else, and
between two levels (0.25 um/px read at 0.4: "between"), where OpenSlide has no resampler and its region of level 0 is
resized with Pillow (bilinear, antialiased), libvips the same with its own. With two reading threads the blocks are
shared by them, each with its own handle where a handle serves one. TIAToolbox appears twice: as ``WSIReader.open``
opens an SVS (through OpenSlide), and with its own TIFF decoder asked for by name. All have the allocator settings of
our workers. Also printed: whether our pixels are the others' (native), or how far from ours (between; the resamplers
differ).

Not measured: disks (the file is in the system's cache after the first, untimed call), other codecs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _harness import Contender, compare, parser, report, start, use_torch_threads
from _inputs import field_mosaic

Rgb = npt.NDArray[np.uint8]
Windows = list[tuple[int, int, int, int]]
ReadAll = Callable[[Windows], Iterator[Rgb]]


def windows(size: tuple[int, int], block: int, halo: int) -> list[tuple[int, int, int, int]]:
    """Return x0, y0, x1, y1 of every block with its halo, clipped to the slide, in raster order."""
    width, height = size
    return [
        (max(0, x - halo), max(0, y - halo), min(width, x + block + halo), min(height, y + block + halo))
        for y in range(0, height, block)
        for x in range(0, width, block)
    ]


def _run(open_reader: Callable[[], ReadAll], boxes: Windows, readers: int) -> Callable[[], dict[str, Any]]:
    """Return the work: read every block, each thread its share, and keep some pixels for comparison."""

    def share(own: Windows) -> tuple[int, list[Rgb]]:
        pixels, kept = 0, []
        for block in open_reader()(own):
            pixels += block.shape[0] * block.shape[1]
            kept.append(block[64:320, 64:320].copy())
        return pixels, kept

    def work() -> dict[str, Any]:
        # Contiguous shares, so that a block's halo is in the cache of the thread that needs it again.
        edges = [len(boxes) * n // readers for n in range(readers + 1)]
        shares = [boxes[a:b] for a, b in pairwise(edges)]
        with ThreadPoolExecutor(readers) as pool:
            done = list(pool.map(share, shares))
        return {
            "pixels": sum(pixels for pixels, _ in done),
            "sample": np.concatenate([block.ravel() for _, kept in done for block in kept] or [np.empty(0, np.uint8)]),
        }

    return work


def ours(path: Path, factor: float, boxes: Windows, readers: int) -> Callable[[], Any]:
    use_torch_threads()
    from wsi_pipeline.slides import lattice, open_slide
    from wsi_pipeline.units import Box

    def opened() -> ReadAll:
        def read(own: Windows) -> Iterator[Rgb]:
            with open_slide(path) as slide:
                for x0, y0, x1, y1 in own:
                    yield slide.read(Box(x0=x0, y0=y0, x1=x1, y1=y1), slide.mpp.x * factor)

        return read

    work = _run(opened, boxes, readers)

    def from_an_empty_cache() -> Any:
        lattice._caches.clear()  # the cache outlives a slide
        return work()

    return from_an_empty_cache


def bare_codec(path: Path, boxes: Windows, readers: int) -> Callable[[], Any]:
    """Decode every tile once; nothing is put together, so there is no sample to compare."""
    import imagecodecs
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        tables = page.jpegtables
    file = os.open(path, os.O_RDONLY)
    edges = [len(places) * n // readers for n in range(readers + 1)]

    def share(own: list[tuple[int, int]]) -> int:
        return sum(imagecodecs.jpeg8_decode(os.pread(file, n, at), tables=tables).size // 3 for at, n in own)

    def work() -> dict[str, Any]:
        with ThreadPoolExecutor(readers) as pool:
            shares = [places[a:b] for a, b in pairwise(edges)]
            return {"pixels": sum(pool.map(share, shares)), "sample": np.empty(0, np.uint8)}

    return work


def openslide_direct(path: Path, factor: float, boxes: Windows, readers: int) -> Callable[[], Any]:
    import openslide
    from PIL import Image

    def opened() -> ReadAll:
        def read(own: Windows) -> Iterator[Rgb]:
            with openslide.OpenSlide(path) as slide:
                for x0, y0, x1, y1 in own:
                    size = (round((x1 - x0) * factor), round((y1 - y0) * factor))
                    image = slide.read_region((round(x0 * factor), round(y0 * factor)), 0, size).convert("RGB")
                    if factor != 1:
                        image = image.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR)
                    yield np.asarray(image)

        return read

    return _run(opened, boxes, readers)


def tiatoolbox_reader(path: Path, factor: float, boxes: Windows, readers: int, own: bool) -> Callable[[], Any]:
    from tiatoolbox.wsicore.wsireader import TIFFWSIReader, WSIReader

    use_torch_threads()

    def opened() -> ReadAll:
        def read(part: Windows) -> Iterator[Rgb]:
            reader = TIFFWSIReader(path, post_proc=None) if own else WSIReader.open(path)
            for box in part:
                yield reader.read_bounds(box, resolution=1 / factor, units="baseline", coord_space="resolution")

        return read

    return _run(opened, boxes, readers)


def libvips(path: Path, factor: float, boxes: Windows, readers: int) -> Callable[[], Any]:
    os.environ["VIPS_CONCURRENCY"] = "1"
    import pyvips

    def opened() -> ReadAll:
        def read(own: Windows) -> Iterator[Rgb]:
            image = pyvips.Image.new_from_file(str(path), access="random")
            for x0, y0, x1, y1 in own:
                size = (round((x1 - x0) * factor), round((y1 - y0) * factor))
                part = image.crop(round(x0 * factor), round(y0 * factor), *size)
                if factor != 1:
                    part = part.resize((x1 - x0) / size[0], vscale=(y1 - y0) / size[1], kernel="linear")
                yield part.numpy()

        return read

    return _run(opened, boxes, readers)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--size", type=int, default=16384, help="side of the slide, pixels (default 16384)")
    options.add_argument("--slide", type=Path, help="another JPEG-tiled slide instead")
    options.add_argument("--block", type=int, default=2048, help="side of a block, working pixels")
    options.add_argument("--halo", type=int, default=0, help="halo of a block (176 is a blood smear's; default 0)")
    options.add_argument("--readers", type=int, nargs="+", default=[1, 2], help="reading threads (default 1 2)")
    chosen = start(options.parse_args())

    from wsi_pipeline.runtime.layout import KEEP_MEMORY
    from wsi_pipeline.slides import open_slide

    os.environ.update(KEEP_MEMORY)  # for the contenders' processes
    path = chosen.slide or field_mosaic(chosen.scratch, size_px=chosen.size)
    with open_slide(path) as slide:
        (width, height), cache = slide.dimensions, slide.spec.config.cache_mb
    for case, factor in (("native", 1.0), ("between", 1.6)):
        boxes = windows((int(width / factor), int(height / factor)), chosen.block, chosen.halo)
        for readers in chosen.readers:
            contenders = [
                Contender(name="Slide.read", prepare=ours, arguments=(path, factor, boxes, readers)),
                Contender(name="OpenSlide", prepare=openslide_direct, arguments=(path, factor, boxes, readers)),
                Contender(
                    name="TIAToolbox", prepare=tiatoolbox_reader, arguments=(path, factor, boxes, readers, False)
                ),
                Contender(
                    name="TIAToolbox's TIFF reader",
                    prepare=tiatoolbox_reader,
                    arguments=(path, factor, boxes, readers, True),
                ),
                Contender(name="libvips", prepare=libvips, arguments=(path, factor, boxes, readers)),
            ]
            if case == "native":
                contenders.insert(1, Contender(name="bare codec", prepare=bare_codec, arguments=(path, boxes, readers)))
            timings = compare(contenders, repeats=chosen.repeats)
            reference = timings[0].value["sample"].astype(np.int16)
            extra = {
                f"mean difference of {t.name} from ours, grey levels": round(
                    float(np.abs(t.value["sample"].astype(np.int16) - reference).mean()), 4
                )
                for t in timings[1:]
                if t.value["sample"].shape == reference.shape
            }
            work = {
                "slide": path.name, "width": width, "height": height, "block": chosen.block, "halo": chosen.halo,
                "cache_mib": cache, "readers": readers,
            }  # fmt: skip
            amount = timings[0].value["pixels"] / 1e6
            report(chosen, "reading", f"{case}-{readers}", timings, work=work, amount=amount, unit="Mpx", extra=extra)


if __name__ == "__main__":
    main()
