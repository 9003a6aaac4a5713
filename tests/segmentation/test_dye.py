"""White cells told from red ones by the dye of the slide's own red cells."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_pipeline.segmentation.dye import NO_RED_CELLS, RedDye, red_dye, white_in_name_only

GLASS = np.array([240, 235, 230], np.uint8)
HAEMOGLOBIN = np.array([0.10, 0.22, 0.15])
AZURE = np.array([0.60, 0.70, 0.25])


def colours(*densities: np.ndarray) -> np.ndarray:
    """Return grey levels that show optical densities on the glass."""
    return GLASS * 10.0 ** -np.array(densities)


def kinds(*names: str) -> np.ndarray:
    return np.array(names, object)


def dye_of(*strengths: float) -> RedDye:
    n = len(strengths)
    shades = colours(*[s * HAEMOGLOBIN for s in strengths])
    return red_dye(np.full(n, "red", object), np.ones(n), shades, np.full(n, 45.0), GLASS)


@pytest.mark.parametrize("strength", [0.3, 1.0, 3.0])
def test_a_doubtful_white_cell_with_nothing_but_the_red_cells_dye_is_a_red_cell_however_dense(strength: float) -> None:
    found = white_in_name_only(
        kinds("white", "white", "red"),
        np.array([0.7, 0.7, 0.7]),
        colours(strength * HAEMOGLOBIN, AZURE, HAEMOGLOBIN),
        GLASS,
        dye_of(0.8, 1.0, 1.2),
    )
    assert found.tolist() == [True, False, False]


def test_what_the_votes_are_sure_of_stays() -> None:
    cells = colours(HAEMOGLOBIN, HAEMOGLOBIN)
    found = white_in_name_only(kinds("white", "white"), np.array([0.89, 0.91]), cells, GLASS, dye_of(1, 1, 1))
    assert found.tolist() == [True, False]


def test_too_few_red_cells_tell_nothing() -> None:
    cells = colours(HAEMOGLOBIN)
    for dye in (NO_RED_CELLS, dye_of(1, 1)):
        assert not white_in_name_only(kinds("white"), np.array([0.7]), cells, GLASS, dye).any()


def test_only_red_cells_with_half_of_the_votes_are_asked_and_parts_add_up() -> None:
    kind = kinds("red", "red", "white", "platelet")
    support = np.array([0.6, 0.4, 0.9, 0.9])
    area = np.array([40.0, 50.0, 80.0, 5.0])
    cells = colours(HAEMOGLOBIN, AZURE, AZURE, AZURE)
    dye = red_dye(kind, support, cells, area, GLASS)
    assert dye.n_cells == 1
    np.testing.assert_allclose(dye.density, 40 * HAEMOGLOBIN)
    both = dye + dye_of(2.0)
    assert both.n_cells == 2
    np.testing.assert_allclose(both.density, 40 * HAEMOGLOBIN + 45 * 2 * HAEMOGLOBIN)


def test_a_black_cell_and_one_without_stain_raise_no_warning() -> None:
    cells = np.array([[0.0, 0.0, 0.0], GLASS.astype(float)])
    found = white_in_name_only(kinds("white", "white"), np.array([0.5, 0.5]), cells, GLASS, dye_of(1, 1, 1))
    assert not found.any()
