"""The section on marrow and megakaryocytes in the report of a trephine."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from fake_slide import FakeMpp, FakeSlide
from page import Page, self_contained

from tests.made_trephines import BONE, MPP, SIDE_UM, MadeTrephine, make_trephines, two_groups
from wsi_pipeline.errors import DataError
from wsi_pipeline.exports.report import write_slide_report
from wsi_pipeline.predictions.trephines.cohort_map import fit_cohort_map
from wsi_pipeline.predictions.trephines.phenotypes import PhenotypeModel, load_phenotypes
from wsi_pipeline.taxonomies import load_taxonomy
from wsi_pipeline.training.phenotypes.train import PhenotypeTraining, train_phenotypes

SIDE_PX = round(SIDE_UM / MPP)
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PhenotypeModel:
    folder = tmp_path_factory.mktemp("model")
    make_trephines(folder / "ref", two_groups(8, seed=3))
    train_phenotypes(PhenotypeTraining(runs=(folder / "ref",), most=3), folder / "m.phenotypes.json")
    return load_phenotypes(folder / "m.phenotypes.json")


@pytest.fixture(scope="module")
def slide() -> FakeSlide:
    pixels = np.full((SIDE_PX, SIDE_PX, 3), (226, 180, 208), np.uint8)
    return FakeSlide(pixels=pixels, mpp=FakeMpp(x=MPP, y=MPP))


def _feature(shape: shapely.Geometry, name: str, status: str) -> dict[str, object]:
    return {
        "type": "Feature",
        "id": str(uuid.uuid4()),
        "geometry": shapely.geometry.mapping(shapely.transform(shape, lambda xy: xy / MPP)),
        "properties": {
            "objectType": "annotation",
            "name": name,
            "classification": {"name": f"{name}*", "color": [1, 2, 3]},
            "metadata": {"status": status, "reason": name},
        },
    }


def _report(tmp_path: Path, slide: FakeSlide, made: MadeTrephine, model: PhenotypeModel | None) -> str:
    make_trephines(tmp_path, [made], model=model)
    folder = tmp_path / "slides" / made.slide_id
    fat = shapely.Point(300, 300).buffer(40)
    marrow = shapely.box(0, 0, SIDE_UM, SIDE_UM).difference(BONE)
    features = [
        _feature(marrow, "Marrow", "included"),
        _feature(BONE, "bone", "excluded"),
        _feature(fat, "fat", "inside"),
    ]
    (folder / "regions.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    summary = json.loads((folder / "summary.json").read_text())
    summary["regions"] = {"classes_mm2": {"haematopoietic": 1.5, "fat": 0.5, "bone": 0.16}}
    (folder / "summary.json").write_text(json.dumps(summary))
    write_slide_report(folder, slide=slide, taxonomy=load_taxonomy("section"), specimen="trephine")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_everything_of_a_trephine_is_shown(tmp_path: Path, slide: FakeSlide, model: PhenotypeModel) -> None:
    text = _report(tmp_path, slide, MadeTrephine(slide_id="S", mix=(20, 12, 6), clustered=0.5, seed=5), model)
    self_contained(Page(text))
    for words in ("Marrow and megakaryocytes", "Clark-Evans", "Beside bone", "19 features of MekaNet", "g(r)"):
        assert words in text
    for phenotype in model.phenotypes:
        assert phenotype.name in text
    assert text.count('class="wide"') == sum(min(8, n) for n in _shares(tmp_path / "slides" / "S").values())
    assert "ET (n 4)" in text


def _shares(folder: Path) -> dict[str, int]:
    rows = json.loads((folder / "summary.json").read_text())["trephine"]["phenotypes"]["rows"]
    return {row["code"]: row["count"] for row in rows}


def test_too_few_are_said_and_nothing_is_drawn_of_them(tmp_path: Path, slide: FakeSlide, model: PhenotypeModel) -> None:
    text = _report(tmp_path, slide, MadeTrephine(slide_id="few", mix=(6, 2, 0), seed=6), model)
    assert "too few megakaryocytes" in text
    assert "at least 20 are needed" in text
    assert "Clark-Evans" not in text
    assert text.count('class="wide"') == 8


def test_without_a_model_all_are_shown_by_rank_of_area(tmp_path: Path, slide: FakeSlide) -> None:
    text = _report(tmp_path, slide, MadeTrephine(slide_id="S", mix=(30, 5, 0), seed=7), None)
    assert "No phenotype model was given" in text
    assert "All megakaryocytes" in text
    assert text.count('class="wide"') == 16


def test_names_from_outside_are_escaped(tmp_path: Path, slide: FakeSlide, model: PhenotypeModel) -> None:
    document = model.document
    first = document.phenotypes[0].model_copy(update={"name": EVIL})
    group = document.reference[-1].model_copy(update={"label": EVIL})
    evil = document.model_copy(
        update={"phenotypes": (first, *document.phenotypes[1:]), "reference": (*document.reference[:-1], group)}
    )
    made = MadeTrephine(slide_id="S", mix=(20, 12, 6), seed=5)
    text = _report(tmp_path, slide, made, PhenotypeModel(document=evil, sha256="0" * 64))
    assert EVIL not in text
    assert "&lt;script&gt;" in text
    assert Page(text)


def test_the_sample_is_shown_on_the_map_of_the_cohort(tmp_path: Path, slide: FakeSlide) -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, (10, 3)), rng.normal(3, 1, (10, 3))])
    found = fit_cohort_map(
        ("a", "b", "c"), values, ["et"] * 10 + ["pv"] * 10, classes=(("et", f"ET {EVIL}"), ("pv", "PV")), model="m",
        simulated=True, trained_on="20 samples",
    )  # fmt: skip
    assert found is not None
    placed = found.place(("a", "b", "c"), np.array([3.0, 3.0, 3.0]))
    make_trephines(tmp_path, [MadeTrephine(slide_id="S", mix=(24, 4, 2), seed=4)])
    folder = tmp_path / "slides" / "S"
    summary = json.loads((folder / "summary.json").read_text())
    summary["trephine"]["map"] = {"model": "m", "simulated": True, "file": "cohort_map.json", **placed}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "cohort_map.json").write_text(json.dumps(found.drawing(placed)))
    write_slide_report(folder, slide=slide, taxonomy=load_taxonomy("section"), specimen="trephine")
    text = (folder / "report.html").read_text(encoding="utf-8")
    self_contained(Page(text.replace("http://www.w3.org/2000/svg", "")))
    assert "Among the reference samples" in text
    assert 'class="cohort-map"' in text
    assert "SIMULATED" in text
    assert f"{len(placed['nearest'])} × PV" in text
    assert EVIL not in text


def test_lobes_of_a_nucleus_are_outlined(tmp_path: Path, slide: FakeSlide) -> None:
    made = MadeTrephine(slide_id="S", mix=(22, 0, 0), seed=8)
    make_trephines(tmp_path / "plain", [made])
    path = tmp_path / "plain" / "slides" / "S" / "cells.parquet"
    table = pq.read_table(path)
    lobes = []
    for kind, wkb in zip(table["kind"].to_pylist(), table["geometry"].to_pylist(), strict=True):
        x, y = shapely.from_wkb(wkb).centroid.coords[0]
        parts = [shapely.box(x - 9, y - 9, x - 1, y + 9), shapely.box(x + 1, y - 9, x + 9, y + 9)]
        lobes.append(shapely.to_wkb(shapely.MultiPolygon(parts)) if kind == "megakaryocyte" else None)
    place = table.schema.get_field_index("nucleus")
    pq.write_table(table.set_column(place, "nucleus", pa.array(lobes, pa.binary())), path)
    folder = path.parent
    write_slide_report(folder, slide=slide, taxonomy=load_taxonomy("section"), specimen="trephine")
    text = (folder / "report.html").read_text(encoding="utf-8")
    wide = text.split('class="wide"')[1].split("</figure>")[0]
    assert wide.count("<path") == 3


def test_a_damaged_table_is_named(tmp_path: Path, slide: FakeSlide) -> None:
    make_trephines(tmp_path, [MadeTrephine(slide_id="S", seed=9)])
    folder = tmp_path / "slides" / "S"
    (folder / "megakaryocytes.csv").write_text("cell_id,x_um\nA,not a number\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"megakaryocytes\.csv cannot be read"):
        write_slide_report(folder, slide=slide, taxonomy=load_taxonomy("section"), specimen="trephine")
