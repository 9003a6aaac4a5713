"""The map of a cohort: where samples lie, that a new one lies among its like, and that its file is safe to read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wsi_pipeline.errors import DataError, ModelError
from wsi_pipeline.exports.report.cohort_map import cohort_map_svg
from wsi_pipeline.predictions.trephines.cohort_map import CohortMap, fit_cohort_map, load_cohort_map

NAMES = ("a", "b", "c", "constant", "unknown")


def cohort(n: int = 30) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    one = np.arange(n) % 2
    values = rng.normal(0, 0.4, (n, 5)) + np.outer(one, [3.0, -2.0, 0.0, 0.0, 0.0])
    values[:, 3] = 1.0
    values[: n // 2 + 1, 4] = np.nan
    values[3, 1] = np.nan
    return values, ["pv" if i else "et" for i in one]


def made(names: tuple[str, str] = ("essential thrombocythaemia", "polycythaemia vera")) -> CohortMap:
    values, labels = cohort()
    found = fit_cohort_map(
        NAMES, values, labels, classes=list(zip(("et", "pv"), names, strict=True)), model="m", simulated=False,
        trained_on="30 patients",
    )  # fmt: skip
    assert found is not None
    return found


def test_what_does_not_vary_and_what_few_have_does_not_enter() -> None:
    own = made().document
    assert own.features == ("a", "b", "c")
    assert own.axes[0].explained > own.axes[1].explained
    assert {name for name, _ in own.axes[0].main[:2]} == {"a", "b"}


def test_classes_lie_apart_and_a_new_sample_among_its_like() -> None:
    found = made()
    x = {code: [s.x for s in found.document.samples if s.code == code] for code in ("et", "pv")}
    assert max(min(v) for v in x.values()) > min(max(v) for v in x.values())
    placed = found.place(NAMES, np.array([3.0, -2.0, 0.0, 1.0, np.nan]))
    assert {own["class"] for own in placed["nearest"]} == {"pv"}
    assert placed["known"] == 1.0
    distances = [own["distance"] for own in placed["nearest"]]
    assert distances == sorted(distances)
    # A reference sample lies where it did.
    values, _ = cohort()
    again = found.place(NAMES, values[0])
    assert (again["x"], again["y"]) == pytest.approx((found.document.samples[0].x, found.document.samples[0].y))
    assert again["nearest"][0]["distance"] == pytest.approx(0)


def test_missing_features_are_the_medians_and_are_counted() -> None:
    found = made()
    placed = found.place(("a",), np.array([3.0]))
    assert placed["known"] == pytest.approx(1 / 3)
    with pytest.raises(ModelError, match="none of which"):
        found.place(("zzz",), np.array([1.0]))


def test_contours_enclose_about_their_share_of_a_class() -> None:
    from matplotlib.path import Path as Outline

    rng = np.random.default_rng(1)
    values = rng.normal(size=(400, 2))
    found = fit_cohort_map(
        ("a", "b"), values, ["et"] * 200 + ["pv"] * 200, classes=[("et", "ET"), ("pv", "PV")], model="m",
        simulated=False, trained_on="-",
    )  # fmt: skip
    assert found is not None
    places = np.array([(s.x, s.y) for s in found.document.samples if s.code == "et"])
    for contour in found.document.contours:
        if contour.code == "et":
            inside = np.sum([Outline(path).contains_points(places) for path in contour.paths], axis=0) % 2
            assert inside.mean() == pytest.approx(contour.share, abs=0.1)


def test_few_samples_of_a_class_have_no_contour() -> None:
    values, labels = cohort(8)
    found = fit_cohort_map(
        NAMES, values, labels, classes=[("et", "ET"), ("pv", "PV")], model="m", simulated=False, trained_on="-"
    )
    assert found is not None
    assert found.document.contours == ()
    assert (
        fit_cohort_map(NAMES[:1], values[:, :1], labels, classes=[], model="m", simulated=False, trained_on="") is None
    )


def test_a_umap_keeps_places_alone_and_a_new_sample_lies_among_its_like() -> None:
    values, labels = cohort(40)

    def umap() -> CohortMap:
        found = fit_cohort_map(
            NAMES, values, labels, classes=[("et", "ET"), ("pv", "PV")], model="m", simulated=False, trained_on="-",
            method="umap", seed=3,
        )  # fmt: skip
        assert found is not None
        return found

    found = umap()
    own = found.document
    assert own == umap().document
    assert own.axes == ()
    first = found.place(NAMES, values[0])
    assert (first["x"], first["y"]) == (own.samples[0].x, own.samples[0].y)
    new = found.place(NAMES, np.array([3.0, -2.0, 0.0, 1.0, np.nan]))
    middles = {code: np.mean([(s.x, s.y) for s in own.samples if s.code == code], axis=0) for code in ("et", "pv")}
    apart = {code: float(np.hypot(*(middle - (new["x"], new["y"])))) for code, middle in middles.items()}
    assert apart["pv"] < 0.5 * apart["et"]
    svg = str(cohort_map_svg(found.drawing(new)))
    assert "UMAP 2" in svg
    assert "Component" not in svg
    with pytest.raises(DataError, match="a UMAP of 29 samples would be chance: 30 are needed"):
        fit_cohort_map(
            NAMES, values[:29], labels[:29], classes=[("et", "ET"), ("pv", "PV")], model="m", simulated=False,
            trained_on="-", method="umap",
        )  # fmt: skip
    with pytest.raises(ValueError, match="a map of pca has 0 axes"):
        type(own).model_validate({**own.model_dump(), "method": "pca"})


def test_the_file_comes_back_and_damage_is_said(tmp_path: Path) -> None:
    path = tmp_path / "m.map.json"
    assert load_cohort_map(path) is None
    text = json.dumps(made().document.model_dump(mode="json"))
    path.write_text(text)
    again = load_cohort_map(path)
    assert again is not None
    assert again.document == made().document
    changes: tuple[tuple[Callable, str], ...] = (
        (lambda d: d["samples"][0].update(code="cml"), "not there"),
        (lambda d: d["mean"].pop(), "features"),
        (lambda d: d.update(format="x"), "format"),
    )
    for change, said in changes:
        document = json.loads(text)
        change(document)
        path.write_text(json.dumps(document))
        with pytest.raises(ModelError, match=said):
            load_cohort_map(path)
    path.write_text("{")
    with pytest.raises(ModelError, match="JSON"):
        load_cohort_map(path)


def test_the_drawing_has_all_samples_and_no_markup_from_outside() -> None:
    from xml.etree import ElementTree

    found = made(("<script>alert(1)</script>", 'a & "b"'))
    drawing = json.loads(json.dumps(found.drawing(found.place(NAMES, np.array([0.0, 0, 0, 0, 0])))))
    svg = str(cohort_map_svg(drawing))
    assert "<script>" not in svg
    tree = ElementTree.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    texts = [node.text for node in tree.iter(f"{space}text")]
    assert any("<script>alert(1)</script> (15)" in str(text) for text in texts)
    assert "this sample" in texts
    assert len(list(tree.iter(f"{space}circle"))) == 15 + 1  # and the legend's
    assert "this sample" not in str(cohort_map_svg(found.drawing(None)))
    assert "Simulated" in str(cohort_map_svg({**drawing, "simulated": True}))
