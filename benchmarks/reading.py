"""Reading blocks of a JPEG-tiled slide: Slide.read against OpenSlide, TIAToolbox and libvips.

The slide is a virtual one, its tiles put unchanged into an SVS, which every reader opens its usual way.

Measured: megapixels delivered as RGB arrays, block by block in raster order with the halo a run uses, from a fresh
handle and an empty cache, with one reading thread; at the slide's own resolution ("native") and at twice its
micron size ("half"). OpenSlide has no resampler, so at half it is read at level 0 and halved with Pillow; libvips
the same with vips_shrink. Also printed: whether our pixels are OpenSlide's (native) or how far the others' are from
ours (half; the resamplers differ, so does their speed).

Not measured: disks (the file is in the system's cache after the first, untimed call), other codecs, several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _harness import Contender, compare, parser, report, start, use_torch_threads
from _inputs import virtual_slide

Rgb = npt.NDArray[np.uint8]


def as_svs(path: Path) -> Path:
    """Return the same tiles, not encoded again, in a TIFF that readers take for an Aperio slide."""
    import tifffile

    target = path.with_suffix(".svs")
    if target.is_file():
        return target
    with tifffile.TiffFile(path) as source, tifffile.TiffWriter(target) as out:
        handle = source.filehandle
        for level, page in enumerate(source.pages):
            tiles = handle.read_segments(page.dataoffsets, page.databytecounts, sort=False)
            size = f"{page.imagewidth}x{page.imagelength}"
            out.write(
                (data for data, _ in tiles),
                shape=page.shape, dtype=page.dtype, tile=page.tile[-2:], photometric=page.photometric,
                compression=page.compression, subsampling=page.subsampling, metadata=None,
                subfiletype=int(level > 0),
                description=f"Aperio Image Library v12.0.0\n{size} ({size}) JPEG/RGB Q=90|AppMag = 40|MPP = 0.25",
            )  # fmt: skip
    return target


def windows(size: tuple[int, int], block: int, halo: int) -> list[tuple[int, int, int, int]]:
    """Return x0, y0, x1, y1 of every block with its halo, clipped to the slide, in raster order."""
    width, height = size
    return [
        (max(0, x - halo), max(0, y - halo), min(width, x + block + halo), min(height, y + block + halo))
        for y in range(0, height, block)
        for x in range(0, width, block)
    ]


def _run(read_all: Callable[[], Iterator[Rgb]]) -> Callable[[], dict[str, Any]]:
    """Return the work: read every block, keep the middle one's pixels for comparison."""

    def work() -> dict[str, Any]:
        pixels, blocks = 0, []
        for block in read_all():
            pixels += block.shape[0] * block.shape[1]
            blocks.append(block[64:320, 64:320].copy())
        return {"pixels": pixels, "sample": np.concatenate([b.ravel() for b in blocks])}

    return work


def ours(path: Path, mpp: float, boxes: list[tuple[int, int, int, int]]) -> Callable[[], Any]:
    use_torch_threads()
    from wsi_pipeline.slides import lattice, open_slide
    from wsi_pipeline.units import Box

    def read_all() -> Iterator[Rgb]:
        lattice._caches.clear()  # the cache outlives a slide; every call must start without it
        with open_slide(path) as slide:
            for x0, y0, x1, y1 in boxes:
                yield slide.read(Box(x0=x0, y0=y0, x1=x1, y1=y1), mpp)

    return _run(read_all)


def openslide_direct(path: Path, factor: int, boxes: list[tuple[int, int, int, int]]) -> Callable[[], Any]:
    import openslide

    def read_all() -> Iterator[Rgb]:
        with openslide.OpenSlide(path) as slide:
            for x0, y0, x1, y1 in boxes:
                size = ((x1 - x0) * factor, (y1 - y0) * factor)
                image = slide.read_region((x0 * factor, y0 * factor), 0, size).convert("RGB")
                yield np.asarray(image.reduce(factor) if factor > 1 else image)

    return _run(read_all)


def tiatoolbox_reader(path: Path, factor: int, boxes: list[tuple[int, int, int, int]]) -> Callable[[], Any]:
    from tiatoolbox.wsicore.wsireader import OpenSlideWSIReader, TIFFWSIReader, WSIReader

    use_torch_threads()
    # WSIReader.open takes OpenSlide for an SVS; TIAToolbox's own decoder is the other choice.
    reader_class = {".svs": TIFFWSIReader, ".tiff": OpenSlideWSIReader, ".tif": OpenSlideWSIReader}.get(path.suffix)

    def read_all() -> Iterator[Rgb]:
        reader = WSIReader.open(path) if reader_class is None else reader_class(path, post_proc=None)
        for box in boxes:
            yield reader.read_bounds(box, resolution=1 / factor, units="baseline", coord_space="resolution")

    return _run(read_all)


def libvips(path: Path, factor: int, boxes: list[tuple[int, int, int, int]]) -> Callable[[], Any]:
    import pyvips

    def read_all() -> Iterator[Rgb]:
        image = pyvips.Image.new_from_file(str(path), access="random")
        for x0, y0, x1, y1 in boxes:
            part = image.crop(x0 * factor, y0 * factor, (x1 - x0) * factor, (y1 - y0) * factor)
            yield (part.shrink(factor, factor) if factor > 1 else part).numpy()

    return _run(read_all)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--size", type=int, default=8192, help="side of the virtual slide, pixels (default 8192)")
    options.add_argument("--slide", type=Path, help="another slide, whose sides are even, instead of a virtual one")
    options.add_argument("--block", type=int, default=2048, help="side of a block's core, working pixels")
    options.add_argument("--halo", type=int, default=176, help="halo of a block (176 is a blood smear's)")
    chosen = start(options.parse_args())

    from wsi_pipeline.slides import open_slide

    path = chosen.slide or as_svs(virtual_slide(chosen.scratch, profile="normal", size_px=chosen.size))
    with open_slide(path) as slide:
        own, (width, height), cache = slide.mpp, slide.dimensions, slide.spec.config.cache_mb
    for case, factor in (("native", 1), ("half", 2)):
        mpp = own.x * factor
        boxes = windows((width // factor, height // factor), chosen.block, chosen.halo)
        timings = compare(
            [
                Contender(name="Slide.read", prepare=ours, arguments=(path, mpp, boxes)),
                Contender(name="OpenSlide", prepare=openslide_direct, arguments=(path, factor, boxes)),
                Contender(name="TIAToolbox", prepare=tiatoolbox_reader, arguments=(path, factor, boxes)),
                Contender(name="libvips", prepare=libvips, arguments=(path, factor, boxes)),
            ],
            repeats=chosen.repeats,
        )
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
            "cache_mib": cache,
        }  # fmt: skip
        amount = timings[0].value["pixels"] / 1e6
        report(chosen, "reading", case, timings, work=work, amount=amount, unit="Mpx", extra=extra)


if __name__ == "__main__":
    main()
