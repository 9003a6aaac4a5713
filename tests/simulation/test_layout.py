"""Placement: keyed by position, without collisions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.simulation import load_profile, profile_names
from wsi_pipeline.simulation.layout import SQUARE_UM, Layout, Placed
from wsi_pipeline.simulation.noise import keyed_generator, smooth_noise, smooth_noise_at
from wsi_pipeline.simulation.sprites import load_sprites


def _layout(profile: str, seed: int = 1) -> Layout:
    return Layout(load_profile(profile), load_sprites(), seed)


def _things(layout: Layout, side: int) -> list[Placed]:
    return [thing for row in range(side) for column in range(side) for thing in layout.square(column, row)]


@settings(deadline=None, max_examples=3)
@given(st.permutations([(c, r) for c in range(-1, 2) for r in range(-1, 1)]), st.integers(0, 2**32))
def test_contents_do_not_depend_on_the_order_of_asking(order: list[tuple[int, int]], seed: int) -> None:
    first, second = _layout("aml", seed), _layout("aml", seed)
    expected = {at: list(first.square(*at)) for at in sorted(order)}
    assert {at: list(second.square(*at)) for at in order} == expected


def test_forgetting_changes_nothing() -> None:
    layout = _layout("normal")
    before = list(layout.square(3, 3))
    layout.forget_above(50)
    assert list(layout.square(3, 3)) == before


def test_another_seed_is_another_slide() -> None:
    assert list(_layout("normal", 1).square(0, 0)) != list(_layout("normal", 2).square(0, 0))


@pytest.mark.parametrize("profile", ["normal", "section"])
def test_cells_keep_their_distance(profile: str) -> None:
    things = _things(_layout(profile), 6)
    at = np.array([(t.x_um, t.y_um) for t in things])
    radius = np.array([t.radius_um for t in things])
    distance = np.hypot(*(at[:, None] - at[None]).transpose(2, 0, 1)) + 1e6 * np.eye(len(things))
    ratio = distance / (radius[:, None] + radius[None])
    assert ratio.min() >= 0.72 - 1e-9
    layers = np.array([t.layer for t in things])
    between = layers[:, None] != layers[None]
    assert ratio[between].min() >= 1.0 - 1e-9
    close = (ratio < 0.99).any(axis=1)
    assert 0.01 < close.mean() < 0.35


def test_centres_lie_in_their_square() -> None:
    for thing in _layout("aml").square(2, -1):
        assert 2 * SQUARE_UM <= thing.x_um < 3 * SQUARE_UM
        assert -SQUARE_UM <= thing.y_um < 0


def test_mix_and_density_follow_the_profile() -> None:
    side = 12
    white = [t for t in _things(_layout("aml"), side) if t.layer == "white"]
    area_mm2 = (side * SQUARE_UM / 1000) ** 2
    counts = Counter(t.sprite.class_name for t in white if t.sprite is not None)
    assert len(white) / area_mm2 == pytest.approx(800, rel=0.2)
    assert counts["blast"] / len(white) == pytest.approx(0.52, abs=0.08)
    reactive = Counter(t.sprite.class_name for t in _things(_layout("reactive"), side) if t.sprite)
    assert reactive["blast"] == 0
    assert reactive["band_neutrophil"] > reactive["myelocyte"] > 0


def test_every_profile_loads() -> None:
    assert set(profile_names()) == {
        "normal", "aml", "apl", "mds", "reactive", "section", "trephine", "trephine-no-marrow", "trephine-tangential",
    }  # fmt: skip
    for name in profile_names():
        assert load_profile(name).name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layers: {white: {per_mm2: 3, mix: {blast: 1}, colour: red}}", "colour"),
        ("layers: {white: {per_mm2: 3}}", "either mix"),
        ("layers: {white: {per_mm2: 3, mix: {blast: 0}}}", "sum to 0"),
        ("layers: [", "cannot be read"),
        ("- 1", "not a mapping"),
    ],
)
def test_bad_profile_is_refused(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("description: x\nspecimen: blood_smear\nbackground: glass\n" * (text[0] == "l") + text)
    with pytest.raises(ConfigError, match=message):
        load_profile(path)


def test_unknown_profile_and_unknown_class_name_what_exists(tmp_path) -> None:
    with pytest.raises(ConfigError, match="aml, apl, mds, normal, reactive, section"):
        load_profile("leukaemia")
    path = tmp_path / "own.yaml"
    path.write_text(
        "description: x\nspecimen: blood_smear\nbackground: glass\nlayers: {white: {per_mm2: 3, mix: {hairy_cell: 1}}}"
    )
    with pytest.raises(ConfigError, match=r"hairy_cell.*lymphocyte"):
        Layout(load_profile(path), load_sprites(), 0)


@given(st.integers(0, 2**31), st.integers(-500, 500), st.integers(-500, 500), st.integers(1, 40))
def test_noise_is_a_function_of_place_alone(seed: int, x0: int, y0: int, size: int) -> None:
    whole = smooth_noise(seed, 3, np.arange(x0, x0 + 60), np.arange(y0, y0 + 60), 17.0)
    part = smooth_noise(seed, 3, np.arange(x0 + 10, x0 + 10 + size), np.arange(y0 + 7, y0 + 7 + size), 17.0)
    np.testing.assert_array_equal(whole[7 : 7 + size, 10 : 10 + size], part[: 60 - 7, : 60 - 10])
    assert np.abs(whole).max() <= 1.0
    assert np.abs(np.diff(whole, axis=0)).max() < 0.25


def test_generators_of_neighbouring_places_differ() -> None:
    draws = {keyed_generator(5, 1, x, y).random() for x in range(-2, 3) for y in range(-2, 3)}
    assert len(draws) == 25


@given(st.integers(0, 2**63), st.integers(0, 900), st.floats(-1e5, 1e6), st.floats(-1e5, 1e6), st.floats(1, 5000))
def test_noise_at_one_place_is_that_of_the_grid(seed: int, purpose: int, x: float, y: float, wave: float) -> None:
    assert smooth_noise_at(seed, purpose, x, y, wave) == smooth_noise(seed, purpose, x, y, wave)[0, 0]
