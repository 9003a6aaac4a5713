"""Which stain a section shows, and which configuration it is refused by."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn_trephines import draw_trephine
from PIL import Image

from wsi_pipeline.errors import WrongStainError
from wsi_pipeline.regions.masks import glass_colour
from wsi_pipeline.regions.stain import StainColours, find_stain, require_stain, stain_warning
from wsi_pipeline.simulation.reticulin import ReticulinShape, draw_reticulin


def _seen(pixels: np.ndarray, times: int = 4) -> StainColours:
    small = cv2.resize(pixels, None, fx=1 / times, fy=1 / times, interpolation=cv2.INTER_AREA)
    return find_stain(small, glass_colour(small))


@pytest.mark.parametrize("stain", [0.6, 1.0, 1.6])
def test_a_drawn_h_and_e_core_is_he_however_heavy(stain):
    assert _seen(draw_trephine(stain=stain, width=1200, height=600).image).kind == "he"


@pytest.mark.parametrize(("density", "counterstain"), [(4.0, 0.3), (4.0, 1.6), (200.0, 1.0)])
def test_drawn_reticulin_is_silver_with_few_fibres_and_many(density, counterstain):
    shape = ReticulinShape(density=density, counterstain=counterstain, fat_share=0.1)
    assert _seen(draw_reticulin(shape, width=800, height=800, seed=1).pixels, 8).kind == "silver"


def test_too_little_is_unknown_and_blue_is_other():
    glass = np.full((100, 100, 3), 243, np.uint8)
    assert find_stain(glass, (243, 243, 243)).kind == "unknown"
    blue = np.full((100, 100, 3), (80, 120, 210), np.uint8)
    seen = find_stain(blue, (243, 243, 243))
    assert seen.kind == "other"
    assert stain_warning({"stain": seen.to_dict()}, "routine")
    assert not stain_warning({"stain": seen.to_dict()}, "reticulin")


def test_each_configuration_refuses_the_other_stain_and_says_which_to_use():
    def seen(kind):
        return StainColours(kind=kind, magenta=0.0, shares=(0.3, 0.3, 0.4), n_pixels=900)

    with pytest.raises(WrongStainError, match=r"a\.svs.*silver.*--config reticulin") as raised:
        require_stain(seen("silver"), "routine", "a.svs")
    assert raised.value.reason == "wrong-stain"
    with pytest.raises(WrongStainError, match=r"H&E.*--config trephine"):
        require_stain(seen("he"), "reticulin", "a.svs")
    for kind in ("he", "other", "unknown"):
        require_stain(seen(kind), "routine", "a.svs")
    for kind in ("silver", "other", "unknown"):
        require_stain(seen(kind), "reticulin", "a.svs")


@pytest.mark.data
def test_real_h_and_e_is_he(data_root: Path):
    for folder, times in (("marrow-he/images", 16), ("trephine-thumbnails", 2)):
        for path in sorted((data_root / folder).glob("*.png")):
            assert _seen(np.asarray(Image.open(path).convert("RGB")), times).kind == "he", path
