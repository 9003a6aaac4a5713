"""Reading: a pixel depends on its place only; the resampler is right; threads and processes agree."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsi_pipeline.config import SlidesConfig
from wsi_pipeline.slides import open_slide
from wsi_pipeline.slides.resample import axis_weights
from wsi_pipeline.units import Box

# Native, upsampled, ratio 1.37, just under and over level 1, level 1 resampled, the coarsest level.
MPPS = (0.25, 0.2, 0.3425, 1.0, 1.001, 1.3, 6.0)
BACKENDS = ("openslide", "tiff")
# OpenSlide reads in chunks of 256 px here; the raw-tile backend always in the file's tiles.
SMALL_CHUNKS = {name: SlidesConfig(backend=name, chunk_px=256, cache_mb=16) for name in BACKENDS}


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture(scope="module")
def slide(odd_pyramid, backend):
    with open_slide(odd_pyramid, config=SMALL_CHUNKS[backend]) as opened:
        yield opened


def test_levels_have_the_odd_downsample(slide, backend):
    assert slide.backend == backend
    assert slide.dimensions == (4003, 3002)
    assert slide.levels[1].downsample == pytest.approx((4003 / 1000 + 3002 / 750) / 2)
    assert [slide.level_for(mpp) for mpp in (0.2, 0.25, 0.99, 1.0, 4.4, 30)] == [0, 0, 0, 1, 2, 2]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), mpp=st.sampled_from(MPPS))
def test_a_pixel_does_not_depend_on_the_box(slide, data, mpp):
    width, height = slide.size_at(mpp)
    x0 = data.draw(st.integers(-150, width + 60))
    y0 = data.draw(st.integers(-150, height + 60))
    big = Box(x0=x0, y0=y0, x1=x0 + data.draw(st.integers(1, 400)), y1=y0 + data.draw(st.integers(1, 400)))
    a = data.draw(st.integers(0, big.width - 1))
    b = data.draw(st.integers(0, big.height - 1))
    small = Box(
        x0=x0 + a,
        y0=y0 + b,
        x1=x0 + data.draw(st.integers(a + 1, big.width)),
        y1=y0 + data.draw(st.integers(b + 1, big.height)),
    )
    whole, part = slide.read(big, mpp), slide.read(small, mpp)
    assert whole.shape == (big.height, big.width, 3)
    crop = whole[b : b + small.height, a : a + small.width]
    assert np.array_equal(crop, part)


@pytest.mark.parametrize("mpp", MPPS)
def test_panels_and_a_starved_cache_change_nothing(odd_pyramid, backend, mpp):
    """More than one 1024 px panel, and a cache too small for a row of chunks."""
    box = Box(x0=-20, y0=-30, x1=1500, y1=1200)
    with (
        open_slide(odd_pyramid, config=SMALL_CHUNKS[backend]) as one,
        open_slide(odd_pyramid, config=SMALL_CHUNKS[backend]) as two,
    ):
        two._reader._cache.capacity_bytes = 256 * 256 * 3
        whole = one.read(box, mpp)
        rows = [two.read(Box(x0=-20, y0=y, x1=1500, y1=min(y + 97, 1200)), mpp) for y in range(-30, 1200, 97)]
        assert np.array_equal(whole, np.concatenate(rows))
        two._reader._cache.capacity_bytes = 16 * 2**20


def test_native_resolution_is_an_exact_copy(slide, texture):
    image = texture(4003, 3002)
    assert np.array_equal(slide.read(Box(x0=900, y0=700, x1=2300, y1=1500), 0.25), image[700:1500, 900:2300])
    edge = slide.read(Box(x0=3990, y0=2990, x1=4013, y1=3012), 0.25)
    assert np.array_equal(edge[:12, :13], image[2990:, 3990:])
    assert (edge[12:] == 255).all()
    assert (edge[:, 13:] == 255).all()


def test_neither_chunk_size_nor_backend_matters_at_level_0(odd_pyramid):
    box = Box(x0=100, y0=50, x1=900, y1=700)
    with open_slide(odd_pyramid, config=SMALL_CHUNKS["openslide"]) as one, open_slide(odd_pyramid) as two:
        assert two.backend == "tiff"
        assert np.array_equal(one.read(box, 0.3425), two.read(box, 0.3425))
        assert np.array_equal(one.read(box, 0.3425), two.read(box, 0.3425, overlap=90))


@pytest.mark.parametrize("mpp", [0.2, 0.3425, 0.6])
def test_resampler_agrees_with_a_plain_float_one(slide, texture, mpp):
    """Not checked: levels above 0, where OpenSlide interpolates."""
    box = Box(x0=300, y0=200, x1=340, y1=230)
    ratio = mpp / 0.25
    image = 255.0 - texture(4003, 3002)

    def weights(start, stop):
        centre = (np.arange(start, stop)[:, None] + 0.5) * ratio - 0.5
        triangle = np.maximum(0, 1 - np.abs(np.arange(4003)[None] - centre) / max(1, ratio))
        return triangle / triangle.sum(1, keepdims=True)

    wy, wx = weights(box.y0, box.y1)[:, :3002], weights(box.x0, box.x1)
    expected = 255 - np.einsum("yk,xl,klc->yxc", wy, wx, image, optimize=True)
    assert np.abs(slide.read(box, mpp) - expected).max() <= 0.6


@settings(max_examples=100, deadline=None)
@given(start=st.integers(-(10**6), 10**7), count=st.integers(1, 50), ratio=st.floats(0.05, 300))
def test_weights_are_a_function_of_the_pixel_and_sum_exactly(start, count, ratio):
    first, weights = axis_weights(start, start + count, ratio)
    assert (weights.sum(axis=1) == 2**14).all()
    assert (weights >= 0).all()
    assert (np.diff(first) >= 0).all()
    alone_first, alone = axis_weights(start + count - 1, start + count, ratio)
    assert alone_first[0] == first[-1]
    assert np.array_equal(alone[0], weights[-1])
    # The centre of gravity is the pixel's centre, up to the sampling of the triangle: at most 0.0718 of its half
    # width, at a ratio of 1.185 (found by a search over ratios and phases).
    centre = (weights * (first[:, None] + np.arange(weights.shape[1]))).sum(1) / 2**14
    assert np.abs(centre - ((np.arange(start, start + count) + 0.5) * ratio - 0.5)).max() < 0.0725 * max(1, ratio)


def test_flat_colour_stays_flat_and_an_edge_stays_in_place(tmp_path, write_pyramid):
    image = np.full((1200, 1600, 3), 200, np.uint8)
    image[:, 800:] = 100
    path = write_pyramid(tmp_path / "edge.tiff", image, sizes=[(400, 300)])
    with open_slide(path) as slide:
        for mpp in (0.25, 0.37, 1.0, 1.9):
            width, height = slide.size_at(mpp)
            pixels = slide.read(Box(x0=2, y0=2, x1=width - 2, y1=height - 2), mpp)
            assert set(np.unique(pixels[:, : width // 3])) == {200}
            assert set(np.unique(pixels[:, -width // 3 :])) == {100}
            # The light side is as wide as it should be: 800 level-0 pixels less the 2 cut off.
            light = (pixels[5, :, 0].astype(float) - 100).sum() / 100
            assert light == pytest.approx(slide.frame(mpp).from_px0([(800, 0)])[0, 0] - 2, abs=0.1)


def test_threads_read_the_same(slide):
    boxes = [Box(x0=x, y0=y, x1=x + 300, y1=y + 200) for x in range(-50, 2000, 310) for y in range(0, 1500, 290)]
    alone = [slide.read(box, 0.3425) for box in boxes]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda box: slide.read(box, 0.3425), boxes))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_spec_opens_in_a_fresh_process(slide):
    code = (
        "import pickle,sys,hashlib; from wsi_pipeline.units import Box\n"
        "slide = pickle.loads(sys.stdin.buffer.read()).open()\n"
        "print(hashlib.sha256(slide.read(Box(x0=-9, y0=5, x1=500, y1=300), 1.3).tobytes()).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(slide.spec), capture_output=True, check=True, timeout=120
    )
    import hashlib

    here = hashlib.sha256(slide.read(Box(x0=-9, y0=5, x1=500, y1=300), 1.3).tobytes()).hexdigest()
    assert done.stdout.decode().strip() == here


def test_read_refuses_nonsense(slide):
    assert slide.read(Box(x0=5, y0=5, x1=5, y1=9), 1.0).shape == (4, 0, 3)
    with pytest.raises(ValueError, match="limit"):
        slide.read(Box(x0=0, y0=0, x1=10**6, y1=10**6), 1.0)
    with pytest.raises(ValueError, match="positive"):
        slide.read(Box(x0=0, y0=0, x1=1, y1=1), float("nan"))


def test_transparent_pixels_are_white():
    from wsi_pipeline.slides.backends.base import composite_on_white

    rgba = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 100, 200, 128]]], np.uint8)
    assert composite_on_white(rgba).tolist() == [[[255, 255, 255], [10, 20, 30], [127, 177, 227]]]
