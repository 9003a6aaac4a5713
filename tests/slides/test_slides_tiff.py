"""The raw-tile fast path gives OpenSlide's pixels, codec by codec, and says which tile is damaged."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile

from wsi_pipeline.config import SlidesConfig
from wsi_pipeline.errors import (
    ConfigError,
    CorruptTileError,
    SlideUnreachableError,
    UnreadableSlideError,
    UnsupportedFormatError,
)
from wsi_pipeline.slides import open_slide
from wsi_pipeline.slides.backends.tiff_backend import TiffBackend
from wsi_pipeline.units import Box

APERIO = "Aperio Image Library v12.0.0\n700x500 (256x256) J2K|AppMag = 40|MPP = 0.25"
# OpenSlide turns YCbCr into RGB by tables in whole numbers, we in float32; both round to the nearest.
CODECS = {
    "none": (None, {}, "", 0),
    "lzw": ("lzw", {}, "", 0),
    "deflate": ("deflate", {}, "", 0),
    "deflate, predicted": ("deflate", {"predictor": True}, "", 0),
    "zstd": ("zstd", {}, "", 0),
    "webp": ("webp", {"compressionargs": {"lossless": True}}, "", 0),
    "jpeg, halved chroma": ("jpeg", {"subsampling": (2, 2)}, "", 0),
    "jpeg, whole chroma": ("jpeg", {"subsampling": (1, 1)}, "", 0),
    "jpeg, RGB": ("jpeg", {"compressionargs": {"outcolorspace": "RGB"}}, "", 0),
    "aperio jpeg": ("jpeg", {"subsampling": (2, 2)}, APERIO, 0),
    "aperio jpeg 2000, RGB": (33005, {"compressionargs": {"codecformat": "j2k"}}, APERIO, 0),
    "aperio jpeg 2000, YCbCr": (33003, {"compressionargs": {"codecformat": "j2k"}}, APERIO, 1),
}  # fmt: skip


def write(path: Path, image: np.ndarray, codec: str, *, tile: int = 256) -> Path:
    compression, options, description, _ = CODECS[codec]
    pixels = image
    if codec.endswith("2000, YCbCr"):
        r, g, b = (image[..., c].astype(float) for c in range(3))
        y = 0.299 * r + 0.587 * g + 0.114 * b
        pixels = np.stack([y, 128 + (b - y) / 1.772, 128 + (r - y) / 1.402], -1).round().clip(0, 255).astype(np.uint8)
    tifffile.imwrite(
        path, pixels, tile=(tile, tile), compression=compression, metadata=None, description=description or None,
        resolution=(40000, 40000), resolutionunit="CENTIMETER", **{"photometric": "rgb", **options},
    )  # fmt: skip
    return path


@pytest.fixture
def image(texture) -> np.ndarray:
    return texture(700, 500)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("tile", [64, 256])
def test_its_pixels_are_those_of_openslide(tmp_path: Path, image: np.ndarray, codec: str, tile: int) -> None:
    path = write(tmp_path / "slide.tiff", image, codec, tile=tile)
    try:
        with openslide.OpenSlide(path) as other:
            theirs = np.asarray(other.read_region((0, 0), 0, (700, 500)))[..., :3]
    except openslide.OpenSlideError as error:  # WebP is a codec it lacks; written without loss, the image is the answer
        assert "Unsupported TIFF compression" in str(error)
        theirs = image
    with open_slide(path, mpp=0.25) as slide:
        ours = slide.read(Box(x0=0, y0=0, x1=700, y1=500), slide.mpp.x)
        assert slide.backend == "tiff"
        assert slide.mpp.x == pytest.approx(0.25)
    assert np.abs(ours.astype(int) - theirs).max() <= CODECS[codec][3]
    assert np.abs(ours.astype(int) - image).mean() < 15  # and the image itself, as far as the codec keeps it


def test_every_level_is_read_where_openslide_reads_it_from_its_origin(odd_pyramid: Path) -> None:
    backend = TiffBackend(odd_pyramid)
    with openslide.OpenSlide(odd_pyramid) as other:
        assert backend.level_sizes == tuple(other.level_dimensions)
        for level, (width, height) in enumerate(backend.level_sizes):
            theirs = np.asarray(other.read_region((0, 0), level, (width, height)))[..., :3]
            assert np.array_equal(backend.read_chunk(level, Box(x0=0, y0=0, x1=width, y1=height)), theirs)
    backend.close()


def test_metadata_is_openslide_s_whichever_backend_reads(tmp_path: Path, image: np.ndarray) -> None:
    path = write(tmp_path / "slide.svs", image, "aperio jpeg")
    with open_slide(path) as fast, open_slide(path, config=SlidesConfig(backend="openslide")) as slow:
        assert (fast.backend, slow.backend) == ("tiff", "openslide")
        assert fast.mpp == slow.mpp
        assert fast.objective == slow.objective == 40
        assert fast.slide_format == slow.slide_format == "aperio"
        assert fast.properties == slow.properties
    own = TiffBackend(path)  # what it would say without OpenSlide, as for a slide behind a URL
    assert (own.mpp, own.objective, own.vendor) == ((0.25, 0.25), 40, "aperio")
    own.close()


def test_a_damaged_tile_is_named(odd_pyramid: Path, tmp_path: Path) -> None:
    path = tmp_path / "slide.tiff"
    path.write_bytes(odd_pyramid.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        place, count = page.dataoffsets[17], page.databytecounts[17]
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\x00" * count)
    with open_slide(path) as slide:
        slide.read(Box(x0=0, y0=0, x1=256, y1=256), 0.25)
        with pytest.raises(CorruptTileError, match=r"slide.tiff: level 0, tile 1, 1 .*x 256-512, y 256-512"):
            slide.read(Box(x0=200, y0=200, x1=400, y1=400), 0.25)
    with open_slide(path, config=SlidesConfig(on_corrupt="mask")) as slide, open_slide(odd_pyramid) as whole:
        assert slide.masked() == ()
        box = Box(x0=200, y0=200, x1=400, y1=400)
        pixels, intact = slide.read(box, 0.25), whole.read(box, 0.25)
        assert slide.masked() == (Box(x0=256, y0=256, x1=512, y1=512),)
        assert slide.masked(Box(x0=0, y0=0, x1=256, y1=256)) == ()
        assert (pixels[56:, 56:] == 255).all()
        pixels[56:, 56:] = intact[56:, 56:]
        assert np.array_equal(pixels, intact)
        elsewhere = Box(x0=2000, y0=2000, x1=2600, y1=2600)  # one damaged tile does not take the others with it
        assert np.array_equal(slide.read(elsewhere, 0.25), whole.read(elsewhere, 0.25))
        assert slide.masked() == (Box(x0=256, y0=256, x1=512, y1=512),)


def test_a_disk_that_fails_is_no_damaged_tile(odd_pyramid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A cache of a size of its own holds nothing of this slide yet.
    with open_slide(odd_pyramid, config=SlidesConfig(on_corrupt="mask", cache_mb=17)) as slide:
        assert slide.backend == "tiff"

        def fail(*_: int) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", fail)
            with pytest.raises(SlideUnreachableError, match="Input/output error.*check the disk"):
                slide.read(Box(x0=0, y0=0, x1=256, y1=256), 0.25)
        assert slide.masked() == ()
        slide.read(Box(x0=0, y0=0, x1=256, y1=256), 0.25)  # the slide is not lost by it


def test_a_tile_that_claims_gigabytes_is_not_asked_for(odd_pyramid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = TiffBackend(odd_pyramid)
    asked: list[int] = []
    read = backend._source.read
    monkeypatch.setattr(backend._source, "read", lambda at, length: asked.append(length) or read(at, length))
    monkeypatch.setattr(backend._levels[0], "_counts", (2**32,) * 1000)
    with pytest.raises(CorruptTileError, match="claims 4,294,967,296 bytes"):
        backend.read_chunk(0, Box(x0=0, y0=0, x1=256, y1=256))
    assert not asked
    backend.close()


def test_a_file_cut_off_says_so(tmp_path: Path, image: np.ndarray) -> None:
    path = write(tmp_path / "slide.tiff", image, "zstd")
    with tifffile.TiffFile(path) as tiff:
        last = tiff.pages.first.dataoffsets[-1]
    path.write_bytes(path.read_bytes()[: last + 10])
    with pytest.raises(UnreadableSlideError, match="Short read"):
        open_slide(path)  # OpenSlide, whose metadata is taken, notices first
    backend = TiffBackend(path)
    with pytest.raises(CorruptTileError, match="cut off"):
        backend.read_chunk(0, Box(x0=512, y0=256, x1=700, y1=500))
    backend.close()


@pytest.mark.parametrize("codec", ["jpeg, halved chroma", "aperio jpeg 2000, RGB"])
def test_a_codestream_that_claims_a_giant_picture_is_refused_before_it_is_decoded(
    tmp_path: Path, image: np.ndarray, codec: str
) -> None:
    path = write(tmp_path / "slide.tiff", image, codec)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    data = bytearray(path.read_bytes())
    for at, count in places[1:]:
        if codec.startswith("jpeg"):
            frame = data.index(b"\xff\xc0", at, at + count)
            data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
        else:
            data[at + 8 : at + 16] = b"\x00\x00\xff\xff" * 2
    path.write_bytes(data)
    backend = TiffBackend(path)
    with pytest.raises(CorruptTileError, match=r"tile 1, 0 .*claims 65535 x 65535 pixels"):
        backend.read_chunk(0, Box(x0=256, y0=0, x1=512, y1=256))
    backend.close()


def test_what_it_does_not_read_goes_to_another_backend_or_says_why(tmp_path: Path, image: np.ndarray) -> None:
    path = tmp_path / "strips.ome.tif"
    tifffile.imwrite(path, image, photometric="rgb", ome=True, metadata={"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25})
    with open_slide(path) as slide:
        assert slide.backend == "tiatoolbox"
    with pytest.raises(UnsupportedFormatError, match="no page is tiled|not tiled"):
        open_slide(path, config=SlidesConfig(backend="tiff"))
    photograph = tmp_path / "field.png"
    photograph.write_bytes(imagecodecs.png_encode(image))
    with pytest.raises(UnsupportedFormatError, match="not a TIFF"):
        open_slide(photograph, mpp=0.25, config=SlidesConfig(backend="tiff"))


@pytest.mark.parametrize("choice", [{"scene": 1}, {"z_plane": 2}])
def test_a_choice_that_the_backend_does_not_know_is_no_silent_one(tmp_path: Path, image: np.ndarray, choice) -> None:
    path = tmp_path / "strips.ome.tif"
    tifffile.imwrite(path, image, photometric="rgb", ome=True, metadata={"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25})
    aperio = write(tmp_path / "slide.svs", image, "aperio jpeg")
    photograph = tmp_path / "field.png"
    photograph.write_bytes(imagecodecs.png_encode(image))
    for slide, backend in ((path, "auto"), (aperio, "openslide"), (photograph, "auto")):
        with pytest.raises(ConfigError, match=r"slides\.(scene|z_plane) is \d, and the (file|\w+ backend)"):
            open_slide(slide, mpp=0.25, config=SlidesConfig(backend=backend, **choice))
    with open_slide(aperio, config=SlidesConfig(backend="openslide", scene=0)) as slide:
        assert slide.plane == ""


def test_scene_and_focal_plane_are_chosen_and_recorded(tmp_path: Path, texture) -> None:
    path = tmp_path / "scenes.ome.tif"
    small, stack = texture(300, 300), np.stack([texture(600, 400) // (z + 1) + 60 for z in range(3)])
    options = {"photometric": "rgb", "tile": (256, 256), "compression": "zstd"}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(small, metadata={"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}, **options)
        tiff.write(stack, metadata={"axes": "ZYXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}, **options)
    with open_slide(path) as slide:
        assert slide.plane == "scene 1 of 2, z 1 of 3"
        assert np.array_equal(slide.read(Box(x0=0, y0=0, x1=600, y1=400), 0.25), stack[1])
    with open_slide(path, config=SlidesConfig(z_plane=2)) as slide:
        assert np.array_equal(slide.read(Box(x0=0, y0=0, x1=600, y1=400), 0.25), stack[2])
    with open_slide(path, config=SlidesConfig(scene=0)) as slide:
        assert slide.dimensions == (300, 300)
        assert slide.mpp.x == 0.5
        assert np.array_equal(slide.read(Box(x0=0, y0=0, x1=300, y1=300), 0.5), small)
    with pytest.raises(ConfigError, match=r"slides.z_plane is 3, and the file has 3"):
        open_slide(path, config=SlidesConfig(z_plane=3))
    with pytest.raises(ConfigError, match=r"slides.scene is 2, and the file has 2"):
        open_slide(path, config=SlidesConfig(scene=2))


@pytest.mark.data
@pytest.mark.parametrize("name", ["test3-DAPI-2-387.ndpi", "test3-TRITC-2-560.ndpi"])
def test_ndpi_is_cut_at_its_restart_markers(data_root: Path, name: str) -> None:
    # The only NDPIs at hand are fluorescence, which a slide may not be; their pixels serve here all the same.
    backend = TiffBackend(data_root / "slides" / name)
    with openslide.OpenSlide(data_root / "slides" / name) as other:
        for level, (width, height) in enumerate(backend.level_sizes):
            assert (width, height) == other.level_dimensions[level]
            theirs = np.asarray(other.read_region((0, 0), level, (width, height)))[..., :3]
            assert np.array_equal(backend.read_chunk(level, Box(x0=0, y0=0, x1=width, y1=height)), theirs)
    backend.close()


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["cmu_small_region.svs", "tcga-cr-7395-01a-01-ts1.svs", "large_image-yb10kx5k.zstd.tiff"]
)
def test_real_slides_read_as_openslide_reads_them(data_root: Path, name: str) -> None:
    backend = TiffBackend(data_root / "slides" / name)
    with openslide.OpenSlide(data_root / "slides" / name) as other:
        for level, (width, height) in enumerate(backend.level_sizes):
            theirs = np.asarray(other.read_region((0, 0), level, (width, height)))[..., :3]
            assert np.array_equal(backend.read_chunk(level, Box(x0=0, y0=0, x1=width, y1=height)), theirs)
    backend.close()
