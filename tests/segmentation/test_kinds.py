"""Kinds of cells, from kind channels or from stain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.segmentation.kinds import decide_kinds, kind_probabilities, nuclear_pixels
from wsi_pipeline.segmentation.normalise import Normalisation

SMEAR = ("background", "red", "platelet", "cytoplasm", "white_nucleus")
PLAIN = Normalisation(low=(0.0, 0.0, 0.0), high=(255.0, 255.0, 255.0))


def decide(sums: list[list[int]], kinds: tuple[str, ...], **changes):
    array = np.array(sums, np.int64).reshape(-1, len(kinds))
    n = len(array)
    options = {
        "area_px": np.full(n, 1000),
        "nuclear_px": np.zeros(n, np.int64),
        "um2_per_px": 0.0625,
        "specimen": "blood_smear",
    }
    return decide_kinds(array, kinds, **{**options, **changes})


def test_nucleus_and_cytoplasm_speak_for_one_white_cell() -> None:
    kind, support = decide([[10, 60, 0, 60, 50], [0, 68, 0, 60, 50], [0, 5, 90, 3, 2]], SMEAR)
    assert kind.tolist() == ["white", "red", "platelet"]
    np.testing.assert_allclose(support, [110 / 180, 68 / 178, 0.9])


def test_ties_have_one_answer() -> None:
    kind, _ = decide([[0, 0, 50, 50, 0]], SMEAR)
    assert kind.tolist() == ["white"]


def test_a_cell_no_channel_speaks_for_still_has_a_kind() -> None:
    kind, support = decide([[0, 0, 0, 0, 0]], SMEAR)
    assert kind.tolist() == ["white"]
    assert support.tolist() == [0.0]


def test_without_kind_channels_a_section_has_nuclei_only() -> None:
    kind, support = decide_kinds(
        np.zeros((3, 0), np.int64),
        (),
        area_px=np.array([10, 1000, 90_000]),
        nuclear_px=np.array([0, 900, 90_000]),
        um2_per_px=0.25,
        specimen="trephine",
    )
    assert kind.tolist() == ["nucleus"] * 3
    assert support.tolist() == [1.0] * 3


@pytest.mark.parametrize(
    ("area_um2", "nuclear_um2", "expected"),
    [(150, 60, "white"), (45, 0, "red"), (45, 8.9, "red"), (45, 9.0, "white"), (5, 4, "platelet"), (5, 2, "red"),
     (16, 8.5, "platelet"), (17, 8.5, "red")],
)  # fmt: skip
def test_without_kind_channels_stain_and_size_decide_on_smears(
    area_um2: float, nuclear_um2: float, expected: str
) -> None:
    kind, _ = decide_kinds(
        np.zeros((1, 0), np.int64),
        (),
        area_px=np.array([round(area_um2 * 16)]),
        nuclear_px=np.array([np.ceil(nuclear_um2 * 16) if nuclear_um2 >= 9 else np.floor(nuclear_um2 * 16)], int),
        um2_per_px=0.0625,
        specimen="blood_smear",
    )
    assert kind.tolist() == [expected]


def test_no_cells() -> None:
    kind, support = decide([], SMEAR)
    assert len(kind) == len(support) == 0


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(0, 30)] * 4))
def test_kind_probabilities_of_a_part_are_the_part_of_them(seed: int, cut: tuple[int, int, int, int]) -> None:
    """A pixel's value may not depend on where in an array it lies, or blocks would differ."""
    logits = np.random.default_rng(seed).normal(0, 6, (5, 61, 67)).astype(np.float32)
    top, left, bottom, right = cut
    part = np.s_[top : 61 - bottom, left : 67 - right]
    whole = kind_probabilities(logits)
    np.testing.assert_array_equal(kind_probabilities(np.ascontiguousarray(logits[:, *part])), whole[:, *part])
    assert whole.dtype == np.uint8
    assert np.abs(whole.sum(axis=0, dtype=int) - 255).max() <= 3


def test_nuclear_pixels_follow_the_network_when_it_knows_nuclei() -> None:
    logits = np.zeros((5, 1, 3), np.float32)
    logits[4], logits[3] = [[2, 1, 0]], [[1, 1, 3]]
    rgb = np.zeros((1, 3, 3), np.uint8)
    assert nuclear_pixels(rgb, PLAIN, logits, SMEAR).tolist() == [[True, False, False]]


def test_nuclear_pixels_absorb_red() -> None:
    nucleus, red_cell, glass = (90, 50, 140), (215, 130, 125), (245, 245, 245)
    rgb = np.array([[nucleus, red_cell, glass]], np.uint8)
    assert nuclear_pixels(rgb, PLAIN, None, ()).tolist() == [[True, False, False]]


@pytest.mark.parametrize(("white", "expected"), [(61, "red"), (62, "white")])
def test_a_doubtful_cell_is_red(white: int, expected: str) -> None:
    kind, support = decide([[0, 100 - white, 0, white - 30, 30]], SMEAR)
    assert kind.tolist() == [expected]
    assert support[0] == pytest.approx(white / 100 if expected == "white" else 1 - white / 100)


def test_a_giant_platelet_stays_one_whatever_it_stains_like() -> None:
    nucleus = 255 * 20 * 16
    kind, _ = decide([[0, 0, 3 * nucleus, 0, nucleus]], SMEAR)
    assert kind.tolist() == ["platelet"]


@pytest.mark.parametrize(("area_um2", "expected"), [(59, "nucleus"), (61, "megakaryocyte")])
def test_a_small_nucleus_is_no_megakaryocyte(area_um2: float, expected: str) -> None:
    section = ("background", "nucleus", "megakaryocyte")
    kind, _ = decide([[0, 10, 90]], section, area_px=np.array([area_um2 * 4]), um2_per_px=0.25, specimen="trephine")
    assert kind.tolist() == [expected]
