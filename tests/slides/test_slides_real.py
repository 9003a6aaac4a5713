"""Every real or broken file of the development data opens or fails for the right reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wsi_pipeline.cli.main import main
from wsi_pipeline.config import SlidesConfig
from wsi_pipeline.errors import SlideError
from wsi_pipeline.slides import open_slide
from wsi_pipeline.units import Box

pytestmark = pytest.mark.data

REASONS = {
    "4D-series.ome.tiff": "not-brightfield",  # int8, one sample a pixel
    "SOURCE.txt": "unsupported-format",
    "broken.svs": "unsupported-format",  # base64 text under the name of a slide
    "highdicom-sm_annotations.dcm": "unsupported-format",  # DICOM annotations, no image
    "kidney-48-5.tif": "missing-mpp",  # a plain TIFF of strips
    "large_image-yb10kx5k.zstd.tiff": "implausible-mpp",  # 72 dpi
    "openslide-boxes.tiff": "implausible-mpp",  # 72 dpi
    "openslide-unopenable.tiff": "unreadable",  # an unknown compression
    "openslide-unreadable.svs": "corrupt-tile",  # opens; its only tile does not decode
    "qupath-cells-2z.ome.tif": "not-brightfield",  # a palette
    "tcga-cr-7395-01a-01-ts1.svs": "missing-mpp",  # JPEG 2000 without mpp or magnification
    "test3-DAPI-2-387.ndpi": "not-brightfield",  # the scanner names a fluorescence channel
    "test3-TRITC-2-560.ndpi": "not-brightfield",
}
OPENS = {
    "cmu_small_region.svs": ("tiff", 0.499),
    "highdicom-sm_image.dcm": ("openslide", 0.499),
    "highdicom-sm_image_control.dcm": ("openslide", 0.499),
    "highdicom-sm_image_jpegls.dcm": ("tiatoolbox", 0.499),  # OpenSlide has no JPEG-LS
    "highdicom-sm_image_numbers.dcm": ("openslide", 0.499),
    "instanseg-HE_example.tif": ("tiff", 0.5001),
    "openslide-boxes_0.dcm": ("openslide", 0.499),
    "openslide-boxes_1.dcm": ("openslide", 0.499),  # another part of the same series
    "openslide-small.svs": ("tiff", 0.499),
    "qupath-cells.ome.tif": ("tiatoolbox", 0.25),  # strips
    "qupath-cells.tif": ("image", 0.25),  # ImageJ's unit
}


def test_the_table_is_complete(data_root):
    assert {path.name for path in (data_root / "slides").iterdir()} == REASONS.keys() | OPENS.keys()


@pytest.mark.parametrize("name", sorted(REASONS))
def test_fails_for_the_right_reason(data_root, name):
    with pytest.raises(SlideError) as caught:
        open_slide(data_root / "slides" / name)
    assert caught.value.reason == REASONS[name]
    assert name in str(caught.value)


@pytest.mark.parametrize("name", sorted(REASONS.keys() | OPENS.keys()))
def test_inspect_says_it_in_one_line(data_root, name, monkeypatch, capsys):
    """The command line, given an mpp: what fails prints one line, and nothing but that; the rest prints a table."""
    monkeypatch.setattr(sys, "argv", ["wsi-pipeline", "inspect", "--mpp", "0.25", str(data_root / "slides" / name)])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    if name in OPENS or REASONS[name] == "missing-mpp":
        assert end.value.code == 0, err
        assert "backend" in out
        assert "Traceback" not in err
    else:
        assert end.value.code == 2
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert name in err


@pytest.mark.parametrize("name", sorted(OPENS))
def test_opens(data_root, name):
    backend, mpp = OPENS[name]
    with open_slide(data_root / "slides" / name) as slide:
        assert (slide.backend, slide.mpp.source) == (backend, "slide")
        assert slide.mpp.x == pytest.approx(mpp, abs=1e-4)
        width, height = slide.size_at(mpp)
        pixels = slide.read(Box(x0=0, y0=0, x1=width, y1=height), mpp)
        assert 20 < pixels.mean() < 250


@pytest.mark.parametrize(
    "name", ["kidney-48-5.tif", "tcga-cr-7395-01a-01-ts1.svs", "large_image-yb10kx5k.zstd.tiff", "openslide-boxes.tiff"]
)
def test_given_an_mpp_they_open(data_root, name):
    forced = REASONS[name] == "implausible-mpp"
    with open_slide(data_root / "slides" / name, mpp=0.5, force_mpp=forced) as slide:
        assert slide.mpp.source == ("forced" if forced else "option")
        width, height = slide.size_at(1.3)
        assert slide.read(Box(x0=0, y0=0, x1=width, y1=height), 1.3).std() > 0


def test_parts_of_one_dicom_series_are_one_slide(data_root):
    with (
        open_slide(data_root / "slides/openslide-boxes_0.dcm") as one,
        open_slide(data_root / "slides/openslide-boxes_1.dcm") as two,
        open_slide(data_root / "slides/highdicom-sm_image.dcm") as other,
    ):
        assert one.fingerprint == two.fingerprint != other.fingerprint


@pytest.mark.parametrize("name", ["tcga-cr-7395-01a-01-ts1.svs", "cmu_small_region.svs"])
def test_real_pixels_do_not_depend_on_the_box(data_root, name):
    with open_slide(data_root / "slides" / name, mpp=0.499) as slide:
        for mpp in (0.499, 0.7, 1.1):
            big = slide.read(Box(x0=300, y0=200, x1=900, y1=700), mpp)
            small = slide.read(Box(x0=450, y0=431, x1=611, y1=572), mpp)
            assert np.array_equal(big[231:372, 150:311], small)


def _whole(path: Path, config: SlidesConfig | None = None) -> np.ndarray:
    with open_slide(path, mpp=0.5, force_mpp=True, config=config) as slide:
        width, height = slide.size_at(0.5)
        return slide.read(Box(x0=0, y0=0, x1=width, y1=height), 0.5)


BREAKABLE = (
    "cmu_small_region.svs",
    "highdicom-sm_image.dcm",
    "highdicom-sm_image_jpegls.dcm",
    "instanseg-HE_example.tif",
    "kidney-48-5.tif",
    "large_image-yb10kx5k.zstd.tiff",
    "openslide-boxes.tiff",
    "openslide-boxes_0.dcm",
    "qupath-cells.ome.tif",
    "qupath-cells.tif",
    "tcga-cr-7395-01a-01-ts1.svs",
)
# Bytes that a codec cannot tell from others: these formats carry no checksum, and the codec finds an image in anything.
UNNOTICED = ("cmu_small_region.svs", "kidney-48-5.tif", "qupath-cells.tif", "tcga-cr-7395-01a-01-ts1.svs")


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", BREAKABLE)
def test_a_slide_cut_off_fails_or_has_all_its_pixels(data_root, tmp_path, name, cut):
    """What is gone may be a label image after the pixels; then nothing is missing."""
    data = (data_root / "slides" / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * cut)])
    try:
        pixels = _whole(path)
    except SlideError as error:
        assert error.reason in ("unreadable", "corrupt-tile")
        assert str(path) in str(error)
        assert "IndexError" not in str(error)
    else:
        assert np.array_equal(pixels, _whole(data_root / "slides" / name))


@pytest.mark.parametrize("damage", ["zeros", "noise"])
@pytest.mark.parametrize("name", BREAKABLE)
def test_damage_in_the_middle_fails_or_stays_where_it_is(data_root, tmp_path, name, damage):
    data = bytearray((data_root / "slides" / name).read_bytes())
    middle, length = len(data) // 2, max(64, min(4000, len(data) // 20))
    data[middle : middle + length] = bytes(length) if damage == "zeros" else np.random.default_rng(0).bytes(length)
    path = tmp_path / name
    path.write_bytes(data)
    try:
        pixels = _whole(path)
    except SlideError as error:
        assert error.reason in ("unreadable", "corrupt-tile")
        assert str(path) in str(error)
    else:
        differs = (pixels != _whole(data_root / "slides" / name)).any(axis=2)
        assert differs.mean() < 0.06  # a twentieth of the bytes, where nothing is compressed
        assert name in UNNOTICED or not differs.any()


@pytest.mark.parametrize("name", ["cmu_small_region.svs", "openslide-boxes.tiff", "highdicom-sm_image.dcm"])
def test_a_wrong_suffix_does_not_matter(data_root, tmp_path, name):
    path = tmp_path / "renamed.jp2"
    path.write_bytes((data_root / "slides" / name).read_bytes())
    assert np.array_equal(_whole(path), _whole(data_root / "slides" / name))


def _unreal(folder: Path, kind: str) -> Path:
    path = folder / "x.svs"
    if kind == "html":
        path.write_text("<!DOCTYPE html>\n<html><title>Sign in</title></html>\n")
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "unreadable":
        path.write_bytes(b"II*\0")
        path.chmod(0)
    return path


@pytest.mark.parametrize(
    ("kind", "reason", "says"),
    [
        ("html", "unsupported-format", "text file"),
        ("link to itself", "not-found", "symbolic link"),
        ("pipe", "unsupported-format", "a pipe"),
        ("folder", "unsupported-format", "a folder"),
        ("unreadable", "not-found", "may not read"),
    ],
)
def test_what_only_has_the_name_of_a_slide(tmp_path, kind, reason, says):
    if kind == "unreadable" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = _unreal(tmp_path, kind)
    # In a process of its own: waiting for a pipe could not be stopped from here.
    command = [sys.executable, "-m", "wsi_pipeline.cli.main", "inspect", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    with pytest.raises(SlideError) as caught:
        open_slide(path)
    assert caught.value.reason == reason
