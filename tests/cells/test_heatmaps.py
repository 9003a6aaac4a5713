"""Heatmaps: scale, classes, methods, and that they turn with the window when the classifier does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from test_classifier import _network, _write

from wsi_pipeline.cells.classifier import CellClassifier, load_classifier
from wsi_pipeline.cells.heatmaps import heatmaps, method_for, overlay
from wsi_pipeline.errors import DataError, ModelError

LIGHT = np.array([240, 236, 232], np.uint8)


def _classifier(folder: Path, **details: object) -> CellClassifier:
    return load_classifier(_write(folder, _network(), **details))


def _crops(n: int = 3) -> np.ndarray:
    return np.random.default_rng(2).integers(40, 240, (n, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("method", ["grad-cam", "occlusion"])
def test_maps_go_from_0_to_1_and_differ_by_class(tmp_path: Path, method: str) -> None:
    classifier = _classifier(tmp_path, stain="nuclear-density", views=4)
    crops = _crops()
    found = {c: heatmaps(classifier, crops, LIGHT, c, method=method).values for c in classifier.classes}  # type: ignore[arg-type]
    for values in found.values():
        assert values.shape == (3, 32, 32)
        assert values.dtype == np.float32
        assert values.min() >= 0
        assert set(np.unique(values.max(axis=(1, 2)))) <= {np.float32(0), np.float32(1)}
    assert not np.array_equal(found["lymphocyte"], found["artefact"])


def test_maps_turn_with_the_window_when_all_views_are_averaged(tmp_path: Path) -> None:
    classifier = _classifier(tmp_path, stain="nuclear-density", views=8)
    crops = _crops()
    plain = heatmaps(classifier, crops, LIGHT, "monocyte").values
    turned = heatmaps(classifier, np.ascontiguousarray(np.rot90(crops, 1, (1, 2))), LIGHT, "monocyte").values
    np.testing.assert_allclose(turned, np.rot90(plain, 1, (1, 2)), atol=2e-3)
    assert plain.any()


def test_a_map_does_not_depend_on_the_other_windows(tmp_path: Path) -> None:
    classifier = _classifier(tmp_path)
    crops = _crops(20)
    whole = heatmaps(classifier, crops, LIGHT, "monocyte").values
    np.testing.assert_array_equal(whole[17:], heatmaps(classifier, crops[17:], LIGHT, "monocyte").values)
    assert heatmaps(classifier, crops[:0], LIGHT).values.shape == (0, 32, 32)


def test_threads_that_share_a_classifier_do_not_disturb_each_other(tmp_path: Path) -> None:
    classifier = _classifier(tmp_path)
    crops = _crops(16)
    alone = heatmaps(classifier, crops, LIGHT, "monocyte").values
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: heatmaps(classifier, crops, LIGHT, "monocyte").values, range(16)))
    for values in found:
        np.testing.assert_array_equal(values, alone)


def test_without_a_class_the_answer_is_explained(tmp_path: Path) -> None:
    classifier = _classifier(tmp_path)
    answers = classifier.predict(_crops(), LIGHT).p.argmax(axis=1)
    found = heatmaps(classifier, _crops(), LIGHT)
    assert found.classes == tuple(classifier.classes[i] for i in answers)
    assert found.method == method_for(classifier) == "grad-cam"


def test_refusals(tmp_path: Path) -> None:
    classifier = _classifier(tmp_path)
    with pytest.raises(DataError, match="has no class plum"):
        heatmaps(classifier, _crops(), LIGHT, "plum")
    with pytest.raises(DataError, match="2 classes for 3 windows"):
        heatmaps(classifier, _crops(), LIGHT, ["monocyte", "monocyte"])
    with pytest.raises(ModelError, match="has no attention"):
        heatmaps(classifier, _crops(), LIGHT, method="attention")
    with pytest.raises(DataError, match="do not belong together"):
        overlay(_crops(), np.zeros((3, 16, 16), np.float32))


def test_an_overlay_colours_only_where_there_is_heat() -> None:
    crops = _crops(1)
    values = np.zeros((1, 32, 32), np.float32)
    values[0, 4, 4] = 1
    found = overlay(crops, values)
    changed = (found != crops).any(axis=3)
    assert changed.sum() == 1
    assert changed[0, 4, 4]
