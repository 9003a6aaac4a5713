"""Fields with an instance map."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.simulation.fields import LabelledField, render_labelled_field, sprites_from_image
from wsi_pipeline.simulation.sprites import load_sprites

RED, PURPLE = (205, 165, 175), (90, 50, 150)


def _image(*discs: tuple[float, float, float, tuple[int, int, int]], side: int = 160) -> np.ndarray:
    rng = np.random.default_rng(0)
    image = np.tile(np.array((240, 230, 210), float), (side, side, 1)) + rng.normal(0, 1.5, (side, side, 3))
    yy, xx = np.mgrid[:side, :side] + 0.5
    for x, y, radius, colour in discs:
        image[np.hypot(xx - x, yy - y) < radius] = colour
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def field() -> LabelledField:
    return render_labelled_field("aml", load_sprites(), 5, size_px=(500, 400), origin_px=(37, 11), thickness=1.5)


def test_labels_number_the_cells_without_gaps(field: LabelledField) -> None:
    assert field.rgb.shape == (400, 500, 3)
    assert field.labels.shape == field.overlap.shape == (400, 500)
    assert set(np.unique(field.labels)) == set(range(len(field.kinds) + 1))
    assert len(field.kinds) == len(field.class_names) == len(field.sources)
    assert {"white", "red"} <= set(field.kinds)
    assert 0 < field.overlap.mean() < 0.2
    assert (field.labels[field.overlap] > 0).all()


def test_labels_lie_on_the_stained_pixels(field: LabelledField) -> None:
    light = field.rgb.astype(float).mean(axis=2)
    assert light[field.labels == 0].mean() > light[field.labels > 0].mean() + 15
    white = np.isin(field.labels, 1 + np.flatnonzero(np.array(field.kinds) == "white"))
    assert light[white].mean() < light[(field.labels > 0) & ~white].mean() - 20


def test_same_seed_same_field_and_neighbours_fit() -> None:
    whole = render_labelled_field("normal", load_sprites(), 2, size_px=(300, 300))
    part = render_labelled_field("normal", load_sprites(), 2, size_px=(100, 120), origin_px=(50, 70))
    np.testing.assert_array_equal(part.rgb, whole.rgb[70:190, 50:150])
    np.testing.assert_array_equal(part.labels > 0, whole.labels[70:190, 50:150] > 0)


def test_sprites_are_cut_in_memory() -> None:
    image = _image((80, 80, 28, PURPLE), (130, 40, 18, RED), (30, 130, 27, PURPLE))
    cut = sprites_from_image(image, 0.198, class_name="monocyte", source="pbc/monocyte/x.jpg")
    assert sorted((s.kind, s.class_name, s.source) for s in cut) == [
        ("red", "red_cell", "pbc/monocyte/x.jpg"),
        ("white", "monocyte", "pbc/monocyte/x.jpg"),
    ]
    both = sprites_from_image(image, 0.198, class_name="monocyte", source="x", kinds=["white"], only_middle=False)
    assert [s.class_name for s in both] == ["monocyte", "monocyte"]
    (giant,) = sprites_from_image(image, 0.198, class_name="platelet", source="x", kinds=["platelet"])
    assert giant.class_name == giant.kind == "platelet"


@pytest.mark.parametrize(
    "change", [{"size_px": (0, 5)}, {"seed": -1}, {"mpp": 9.0}, {"thickness": 9.0}, {"stain_variation": 3.0}]
)
def test_bad_requests_are_refused(change: dict[str, object]) -> None:
    request: dict[str, object] = {"profile": "normal", "sprites": load_sprites(), "seed": 1, **change}
    with pytest.raises(ConfigError):
        render_labelled_field(**request)
