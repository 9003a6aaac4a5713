"""Opening: microns per pixel, backends, fingerprints, and a typed error for everything that is no slide."""

from __future__ import annotations

import json
import logging
import math
import shutil
import struct
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from wsi_pipeline.config import SlidesConfig
from wsi_pipeline.errors import (
    ConfigError,
    CorruptTileError,
    ImplausibleMppError,
    MissingMppError,
    NotBrightfieldError,
    SlideNotFoundError,
    UnreadableSlideError,
    UnsupportedFormatError,
)
from wsi_pipeline.slides import describe_slide, open_slide, slide_fingerprint
from wsi_pipeline.slides.backends.base import check_level_sizes
from wsi_pipeline.units import Box


@pytest.mark.parametrize(
    ("own", "options", "expected"),
    [
        (0.25, {}, (0.25, "slide")),
        (0.25, {"mpp": 0.5}, (0.25, "slide")),
        (0.25, {"mpp": 0.5, "manifest_mpp": 0.3}, (0.3, "manifest")),
        (0.25, {"mpp": 0.5, "force_mpp": True}, (0.5, "forced")),
        (0.25, {"mpp": 0.5, "force_mpp": True, "manifest_mpp": 0.3}, (0.5, "forced")),
        (None, {"mpp": 0.5}, (0.5, "option")),
        (None, {"manifest_mpp": 0.3}, (0.3, "manifest")),
        (352.0, {"mpp": 0.5, "force_mpp": True}, (0.5, "forced")),
        (352.0, {"manifest_mpp": 0.3}, (0.3, "manifest")),
        (None, {}, MissingMppError),
        (352.0, {}, ImplausibleMppError),
        (352.0, {"mpp": 0.5}, ImplausibleMppError),
        (0.25, {"manifest_mpp": 0.01}, ImplausibleMppError),
        (None, {"mpp": math.nan}, ImplausibleMppError),
        (0.25, {"force_mpp": True}, ConfigError),
    ],
)
def test_mpp_precedence(tmp_path, write_pyramid, texture, own, options, expected):
    path = write_pyramid(tmp_path / "s.tiff", texture(300, 260), mpp=own)
    if isinstance(expected, type):
        with pytest.raises(expected, match=r"s\.tiff"):
            open_slide(path, **options)
        return
    with open_slide(path, **options) as slide:
        assert (slide.mpp.x, slide.mpp.source) == (pytest.approx(expected[0]), expected[1])


def test_frame_and_size(odd_pyramid):
    with open_slide(odd_pyramid) as slide:
        assert slide.size_at(0.25) == (4003, 3002)
        assert slide.size_at(0.5) == (2002, 1501)
        assert slide.frame(0.5).to_px0([(10, 20)]).tolist() == [[pytest.approx(20), pytest.approx(40)]]
        described = json.loads(json.dumps(describe_slide(slide, mpp=0.5)))
    assert described["working_width_px"] == 2002
    assert described["mpp_source"] == "slide"
    assert described["backend"] == "tiff"


def test_label_and_macro_are_never_touched(odd_pyramid, monkeypatch):
    def refuse(self):
        raise AssertionError("label or macro was read")

    monkeypatch.setattr(openslide.AbstractSlide, "associated_images", property(refuse))
    monkeypatch.setattr(openslide.OpenSlide, "associated_images", property(refuse))
    with open_slide(odd_pyramid) as slide:
        slide.read(Box(x0=0, y0=0, x1=50, y1=50), 1.0)
        describe_slide(slide, mpp=0.5)


def test_fingerprint_follows_the_content_not_the_name(tmp_path, odd_pyramid, write_pyramid, texture):
    first = slide_fingerprint(odd_pyramid)
    copy = shutil.copy(odd_pyramid, tmp_path / "copy.tiff")
    assert slide_fingerprint(copy) == first
    assert len(first) == 64
    other = write_pyramid(tmp_path / "other.tiff", texture(4003, 3001))
    assert slide_fingerprint(other) != first


def test_fingerprint_sees_a_changed_tile_index(tmp_path, write_pyramid, texture):
    """Two files of one size whose first and last MiB are the same and whose middle is laid out differently."""
    image = texture(3000, 2000)
    path = write_pyramid(tmp_path / "a.tiff", image, compression=None)
    assert path.stat().st_size > 3 * 2**20
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages.first.tags["TileOffsets"]
        offsets = list(tag.value)
        place, code = tag.valueoffset, tag.dtype
    before = slide_fingerprint(path)
    offsets[20], offsets[21] = offsets[21], offsets[20]
    data = bytearray(path.read_bytes())
    kind = {4: "I", 16: "Q"}[int(code)]
    struct.pack_into(f"<{len(offsets)}{kind}", data, place, *offsets)
    path.write_bytes(data)
    assert slide_fingerprint(path) != before


def test_a_slide_that_changed_is_not_reopened(tmp_path, write_pyramid, texture):
    path = write_pyramid(tmp_path / "s.tiff", texture(300, 260))
    with open_slide(path) as slide:
        spec = slide.spec
    with spec.open() as again:
        assert again.fingerprint == spec.fingerprint
    write_pyramid(path, texture(301, 260))
    with pytest.raises(UnreadableSlideError, match="changed"):
        spec.open()


def make_bad(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.tiff"
    rng = np.random.default_rng(0)
    tiled = {"tile": (256, 256), "metadata": None, "resolution": (40000, 40000), "resolutionunit": "CENTIMETER"}
    rgb = rng.integers(100, 255, (600, 600, 3), dtype=np.uint8)
    if kind == "missing":
        return path
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not a slide")
    elif kind == "noise":
        path.write_bytes(rng.bytes(5000))
    elif kind == "uint16":
        tifffile.imwrite(path, rgb.astype(np.uint16), photometric="rgb", **tiled)
    elif kind == "grey":
        tifffile.imwrite(path, rgb[..., 0], **tiled)
    elif kind == "fluorescence":
        dark = np.zeros((600, 600, 3), np.uint8)
        dark[..., 2] = rng.integers(10, 60, (600, 600))
        tifffile.imwrite(path, dark, photometric="rgb", **tiled)
    elif kind == "black":
        tifffile.imwrite(path, np.zeros((600, 600, 3), np.uint8), photometric="rgb", **tiled)
    elif kind == "truncated":
        tifffile.imwrite(path, rgb, photometric="rgb", **tiled)
        path.write_bytes(path.read_bytes()[: 3 * path.stat().st_size // 4])
    elif kind == "png-grey":
        path = path.with_suffix(".png")
        Image.fromarray(rgb[..., 0]).save(path)
    elif kind == "png-truncated":
        path = path.with_suffix(".png")
        Image.fromarray(rgb).save(path)
        path.write_bytes(path.read_bytes()[:20000])
    elif kind == "hostile-tile":
        tifffile.imwrite(path, rgb, photometric="rgb", **tiled)
        data = bytearray(path.read_bytes())
        with tifffile.TiffFile(path) as tiff:
            places = [tiff.pages.first.tags[name] for name in ("TileWidth", "TileLength")]
        for tag in places:
            size = {3: ("<H", 65520), 4: ("<I", 65536)}[int(tag.dtype)]
            struct.pack_into(size[0], data, tag.valueoffset, size[1])
        path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        ("missing", SlideNotFoundError, "no such file"),
        ("folder", UnsupportedFormatError, "folder"),
        ("empty", UnsupportedFormatError, "0 bytes"),
        ("text", UnsupportedFormatError, "text file"),
        ("noise", UnsupportedFormatError, "binary"),
        ("uint16", NotBrightfieldError, "uint16"),
        ("grey", NotBrightfieldError, "sample"),
        ("fluorescence", NotBrightfieldError, "dark"),
        ("black", NotBrightfieldError, "dark"),
        ("truncated", UnreadableSlideError, "cannot"),
        ("png-grey", NotBrightfieldError, "mode L"),
        ("png-truncated", UnreadableSlideError, "decoded"),
        ("hostile-tile", UnreadableSlideError, "GiB"),
    ],
)
def test_every_bad_file_has_its_error(tmp_path, kind, error, says):
    path = make_bad(tmp_path, kind)
    with pytest.raises(error, match=says) as caught:
        open_slide(path, mpp=0.25)
    assert path.name in str(caught.value)


def test_dark_tissue_and_black_borders_are_brightfield(tmp_path, write_pyramid):
    rng = np.random.default_rng(1)
    dense = np.clip(rng.normal((110, 60, 130), 25, (600, 600, 3)), 1, 255).astype(np.uint8)
    open_slide(write_pyramid(tmp_path / "dense.tiff", dense)).close()
    border = np.zeros((900, 900, 3), np.uint8)
    border[400:480, 400:480] = rng.integers(150, 250, (80, 80, 3))
    open_slide(write_pyramid(tmp_path / "border.tiff", border)).close()
    open_slide(write_pyramid(tmp_path / "glass.tiff", np.full((600, 600, 3), 243, np.uint8))).close()


def test_a_corrupt_tile_names_slide_level_and_place(tmp_path, write_pyramid, texture):
    path = write_pyramid(tmp_path / "s.tiff", texture(2100, 1500), sizes=[(500, 357)])
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        offset, size = page.dataoffsets[0], page.databytecounts[0]
    data = bytearray(path.read_bytes())
    data[offset : offset + size] = b"\xff" * size
    path.write_bytes(data)
    with open_slide(path) as slide:
        with pytest.raises(CorruptTileError, match=r"s\.tiff.*level 0.*x 0-1024, y 0-1024"):
            slide.read(Box(x0=10, y0=10, x1=20, y1=20), 0.25)
        # The broken handle is gone; the rest of the slide still reads, and the error stays.
        assert slide.read(Box(x0=1500, y0=10, x1=1600, y1=20), 0.25).shape == (10, 100, 3)
        with pytest.raises(CorruptTileError):
            slide.read(Box(x0=10, y0=10, x1=20, y1=20), 0.25)


@pytest.mark.parametrize("sizes", [(), ((0, 10),), ((10**9, 10),), ((5, 5),) * 100])
def test_unbelievable_dimensions(sizes):
    with pytest.raises(UnreadableSlideError):
        check_level_sizes("s", sizes)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_plain_images(tmp_path, texture, suffix):
    image = texture(640, 480)
    path = tmp_path / f"field{suffix}"
    if suffix == ".tif":
        tifffile.imwrite(path, image, photometric="rgb", resolution=(100000, 100000), resolutionunit="CENTIMETER")
    else:
        Image.fromarray(image).save(path, quality=95)
    with open_slide(path, mpp=0.1) as slide:
        assert slide.backend == "image"
        assert slide.mpp.source == ("slide" if suffix == ".tif" else "option")
        read = slide.read(Box(x0=0, y0=0, x1=640, y1=480), 0.1)
        assert np.array_equal(read, np.asarray(Image.open(path)) if suffix == ".jpg" else image)
    with pytest.raises(UnsupportedFormatError, match="OpenSlide"):
        open_slide(path, mpp=0.1, config=SlidesConfig(backend="openslide"))


def test_ome_tiff_through_tiatoolbox(tmp_path, texture):
    image = texture(700, 500)
    path = tmp_path / "s.ome.tif"
    tifffile.imwrite(
        path,
        image,
        photometric="rgb",
        tile=(256, 256),
        compression="deflate",
        metadata={
            "axes": "YXS",
            "PhysicalSizeX": 250.0,
            "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": 250.0,
            "PhysicalSizeYUnit": "nm",
        },
    )
    before = (list(logging.getLogger().handlers), logging.getLogger().level)
    with open_slide(path, config=SlidesConfig(backend="tiatoolbox", chunk_px=256)) as slide:
        assert (slide.backend_requested, slide.backend, slide.slide_format) == ("tiatoolbox", "tiatoolbox", "ome-tiff")
        assert (slide.mpp.x, slide.mpp.source) == (pytest.approx(0.25), "slide")
        assert np.array_equal(slide.read(Box(x0=0, y0=0, x1=700, y1=500), 0.25), image)
        big, small = Box(x0=-5, y0=-5, x1=300, y1=300), Box(x0=200, y0=100, x1=260, y1=190)
        assert np.array_equal(slide.read(big, 0.37)[105:195, 205:265], slide.read(small, 0.37))
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == before
