"""Two libraries, one picture: what several backends read, they read alike.

Not checked: that a codec is right. All of them hand the same bytes to the same few decoders.
"""

from __future__ import annotations

import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from wsi_pipeline.config import SlidesConfig
from wsi_pipeline.errors import MissingMppError, NotBrightfieldError, UnreadableSlideError
from wsi_pipeline.slides import open_slide
from wsi_pipeline.units import Box


def levels_of(path: Path, backend: str) -> tuple[str, list[np.ndarray]]:
    """Return who reads, and the native pixels of every level."""
    config = SlidesConfig.model_validate({"backend": backend})
    with open_slide(path, mpp=0.5, force_mpp=True, config=config) as slide:
        found = []
        for level in slide.levels:
            mpp = 0.5 * slide.dimensions[0] / level.width
            assert slide.level_for(mpp) == slide.levels.index(level)
            found.append(slide.read(Box(x0=0, y0=0, x1=level.width, y1=level.height), mpp))
        return slide.backend, found


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("highdicom-sm_image.dcm", "openslide", "tiatoolbox"),
        ("highdicom-sm_image_control.dcm", "openslide", "tiatoolbox"),
        ("highdicom-sm_image_numbers.dcm", "openslide", "tiatoolbox"),
        ("openslide-boxes_0.dcm", "openslide", "tiatoolbox"),  # JPEG
        ("instanseg-HE_example.tif", "tiff", "tiatoolbox"),  # OME-TIFF, JPEG
        ("large_image-yb10kx5k.zstd.tiff", "tiff", "tiatoolbox"),
        ("cmu_small_region.svs", "tiff", "openslide"),
        ("cmu_small_region.svs", "tiff", "tiatoolbox"),
    ],
)
def test_real_slides_are_read_alike(data_root: Path, name: str, one: str, other: str) -> None:
    """Every level to the byte: TIFFs decoded by one library, DICOM's by two builds of libjpeg-turbo."""
    first, mine = levels_of(data_root / "slides" / name, one)
    second, theirs = levels_of(data_root / "slides" / name, other)
    assert (first, second) == (one, other)
    assert [level.shape for level in mine] == [level.shape for level in theirs]
    for a, b in zip(mine, theirs, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.data
def test_what_openslide_lacks_is_the_picture_of_the_same_dicom_in_another_codec(data_root: Path) -> None:
    """JPEG-LS keeps everything: highdicom stored one image uncompressed and so."""
    lossless, (kept,) = levels_of(data_root / "slides/highdicom-sm_image_jpegls.dcm", "auto")
    plain, (image,) = levels_of(data_root / "slides/highdicom-sm_image.dcm", "auto")
    assert (lossless, plain) == ("tiatoolbox", "openslide")
    assert np.array_equal(kept, image)


@pytest.mark.parametrize("compression", ["deflate", "jpeg", "zstd"])
def test_a_pyramid_of_ome_tiff_is_read_alike(tmp_path: Path, texture, compression: str) -> None:
    path = tmp_path / "slide.ome.tif"
    image = texture(1200, 800)
    options = {"photometric": "rgb", "tile": (256, 256), "compression": compression}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(image, subifds=1, metadata={"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}, **options)
        tiff.write(np.ascontiguousarray(image[::2, ::2]), subfiletype=1, **options)
    first, mine = levels_of(path, "auto")
    second, theirs = levels_of(path, "tiatoolbox")
    assert (first, second, len(mine), len(theirs)) == ("tiff", "tiatoolbox", 2, 2)
    for a, b in zip(mine, theirs, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize(("level", "most"), [(0, 0), (45, 1.6)])
def test_jpeg_2000_is_the_picture_that_was_written(tmp_path: Path, texture, level: int, most: float) -> None:
    """Without loss to the byte; at 45 dB within what the codec threw away. OpenJPEG of the system is not needed."""
    image = texture(700, 500)
    path = tmp_path / "field.jp2"
    path.write_bytes(imagecodecs.jpeg2k_encode(image, codecformat="jp2", level=level, reversible=level == 0))
    who, (found, *_) = levels_of(path, "auto")
    assert who == "image"
    assert np.sqrt(np.mean((found.astype(int) - image) ** 2)) <= most  # 45 dB are 1.43 of 255
    with pytest.raises(MissingMppError):
        open_slide(path)


def test_jpeg_2000_states_its_resolution_and_is_refused_where_it_is_no_colour_image(tmp_path: Path, texture) -> None:
    path = tmp_path / "field.jp2"
    data = imagecodecs.jpeg2k_encode(texture(300, 200), codecformat="jp2", level=0)
    at = data.index(b"jp2h") - 4
    (length,) = struct.unpack_from(">I", data, at)
    # Two and four million pixels a metre: 0.5 um down, 0.25 um across.
    box = struct.pack(">I4sI4sHHHHbb", 26, b"res ", 18, b"resc", 2, 1, 4, 1, 6, 6)
    path.write_bytes(
        data[:at] + struct.pack(">I", length + 26) + data[at + 4 : at + length] + box + data[at + length :]
    )
    with open_slide(path) as slide:
        assert (slide.mpp.x, slide.mpp.y) == pytest.approx((0.25, 0.5))
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableSlideError):
        open_slide(path, mpp=0.25)
    wide = data.replace(struct.pack(">II", 300, 200), struct.pack(">II", 30_000_000, 200))
    assert wide != data
    path.write_bytes(wide)
    with pytest.raises(UnreadableSlideError, match="codestream"):
        open_slide(path, mpp=0.25)
    path.write_bytes(data[:40])
    with pytest.raises(UnreadableSlideError, match="header"):
        open_slide(path, mpp=0.25)
    path.write_bytes(imagecodecs.jpeg2k_encode(texture(300, 200)[..., 0], codecformat="jp2", level=0))
    with pytest.raises(NotBrightfieldError, match="1 sample"):
        open_slide(path, mpp=0.25)
    path.write_bytes(imagecodecs.jpeg2k_encode(texture(300, 200).astype(np.uint16), codecformat="jp2", level=0))
    with pytest.raises(NotBrightfieldError, match="16 bits"):
        open_slide(path, mpp=0.25)
