"""Every real or broken file of the development data opens or fails for the right reason."""

from __future__ import annotations

import numpy as np
import pytest

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
    "cmu_small_region.svs": ("openslide", 0.499),
    "highdicom-sm_image.dcm": ("openslide", 0.499),
    "highdicom-sm_image_control.dcm": ("openslide", 0.499),
    "highdicom-sm_image_jpegls.dcm": ("tiatoolbox", 0.499),  # OpenSlide has no JPEG-LS
    "highdicom-sm_image_numbers.dcm": ("openslide", 0.499),
    "instanseg-HE_example.tif": ("tiatoolbox", 0.5001),
    "openslide-boxes_0.dcm": ("openslide", 0.499),
    "openslide-boxes_1.dcm": ("openslide", 0.499),  # another part of the same series
    "openslide-small.svs": ("openslide", 0.499),
    "qupath-cells.ome.tif": ("tiatoolbox", 0.25),
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
