"""Galleries from folders to reports: artefacts, resume, bad images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from drawn_gallery import MPP, save
from PIL import Image
from written import rows_of

from wsi_pipeline.cells.features import FEATURES
from wsi_pipeline.cohort import CohortResult, execute, plan_gallery
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.predictions.bags import read_bags

CPU = {"runtime.device": "cpu"}
PLACES = ("geometry", "nucleus", "x_px0", "y_px0", "x_um", "y_um", "seed_x", "seed_y", "block")


pytestmark = pytest.mark.usefixtures("in_this_process")


def run(gallery: Path, out: Path, *, restart: bool = False, **options: Any) -> CohortResult:
    settings = {"mpp": MPP, "overrides": CPU, **options}
    return execute(plan_gallery(gallery, out, **settings), restart=restart)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gallery")
    for k in range(3):
        save(root / "P1" / "Lymphocyte" / f"{k}.png", seed=k)
    save(root / "P1" / "MON" / "3.png", seed=3)
    save(root / "P2" / "4.bmp", seed=4)
    return root


def test_a_patient_has_the_artefacts_of_a_slide_but_places(gallery: Path, tmp_path: Path) -> None:
    result = run(gallery, tmp_path)
    assert [s["status"] for s in result.summaries] == ["ok", "ok"]
    folder = tmp_path / "slides" / "P1"
    table = pq.read_table(folder / "cells.parquet")
    assert table.column("image").to_pylist() == [f"Lymphocyte/{k}.png" for k in range(3)] + ["MON/3.png"]
    assert table.column("label_given").to_pylist() == ["Lymphocyte"] * 3 + ["MON"]
    assert table.column("label_class").to_pylist() == ["lymphocyte"] * 3 + ["monocyte"]
    assert all(table.column(name).null_count == 4 for name in PLACES)
    p = np.stack([table.column(n).to_numpy() for n in table.column_names if n.startswith("p_")], axis=1)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    # Drawn 12 um wide, nucleus 8 um: found and measured in microns.
    np.testing.assert_allclose(table.column("area_um2").to_numpy(), np.pi * 6**2, rtol=0.15)
    assert table.column("truncated").to_pylist() == [False] * 4
    assert table.schema.field("embedding").type.list_size > 0
    assert all(table.column(f.name).null_count == 4 for f in FEATURES if f.kinds == ("red",))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["gallery"]["positions"] is False
    assert summary["gallery"]["used"] == 4
    assert "area_mm2" not in summary
    assert summary["red_cells"] is None
    assert sum(summary["counts"]["class"].values()) == 4
    assert not (folder / "regions.geojson").exists()
    assert not (folder / "qupath.geojson.gz").exists()
    assert {r["status"] for r in rows_of(folder / "images.csv")} == {"ok"}
    # The label of P2 is absent, not guessed.
    second = pq.read_table(tmp_path / "slides" / "P2" / "cells.parquet")
    assert second.column("label_given").to_pylist() == [None]
    total = next(r for r in rows_of(tmp_path / "agreement.csv") if r["level"] == "run" and r["class"] == "(all)")
    assert total["n"] == "4"
    answered = table.column("class_name").to_pylist()
    agree = sum(a == c for a, c in zip(answered, table.column("label_class").to_pylist(), strict=True))
    assert int(total["agree"]) == agree
    patients = {r["subject_id"] for r in rows_of(tmp_path / "predictions.csv") if r["level"] == "patient"}
    assert patients == {"P1", "P2"}
    for report in (folder / "report.html", tmp_path / "report.html"):
        assert "Labels given and answers" in report.read_text()
    page = (folder / "report.html").read_text()
    assert "Lymphocyte/0.png" in page
    assert "Evidence for single cells" in page
    assert summary["dysplasia"]["rows"][0]["reason"]
    assert [row["slide_id"] for row in rows_of(tmp_path / "dysplasia.csv")].count("P1") == 3
    assert table.column("hypogranular").null_count == 4  # no eosinophils, so nothing is said
    assert list(tmp_path.rglob("*.png")) == []  # no image is copied
    bags = read_bags([tmp_path])
    assert [(bag.subject_id, len(bag), (bag.given >= 0).sum()) for bag in bags] == [("P1", 4, 4), ("P2", 1, 0)]
    assert bags[0].images is not None
    assert all(Path(path).is_file() for path in bags[0].images)


def test_finished_patients_are_skipped_and_half_done_ones_redone_alike(gallery: Path, tmp_path: Path) -> None:
    run(gallery, tmp_path)
    first, second = (tmp_path / "slides" / name / "cells.parquet" for name in ("P1", "P2"))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (first, second)}
    tables = {p.name: p.read_bytes() for p in tmp_path.glob("*.csv") if p.name != "slides.csv"}
    # As kill -9 leaves it: temporary files, and a summary that its last step has not seen.
    summary = second.parent / "summary.json"
    record = json.loads(summary.read_text())
    del record["seconds"]
    summary.write_text(json.dumps(record))
    (second.parent / ".cells.parquet.123.tmp").write_bytes(b"half")
    run(gallery, tmp_path)
    assert first.stat().st_mtime_ns == before[first][1]
    assert second.stat().st_mtime_ns != before[second][1]
    assert second.read_bytes() == before[second][0]
    assert not list(second.parent.glob("*.tmp"))
    assert not list(second.parent.glob(".*.tmp"))
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.csv") if p.name != "slides.csv"} == tables


def test_changed_images_are_refused_and_another_mpp_too(gallery: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(gallery, tmp_path / "g")
    run(mine, tmp_path / "out")
    with pytest.raises(ConfigError, match="another configuration"):
        run(mine, tmp_path / "out", mpp=0.2)
    save(mine / "P2" / "4.bmp", seed=5)
    with pytest.raises(ConfigError, match="changed slide"):
        run(mine, tmp_path / "out")
    assert run(mine, tmp_path / "out", restart=True).failed == []


def test_bad_images_fail_their_patient_by_name_and_are_skipped_on_request(tmp_path: Path) -> None:
    good = save(tmp_path / "g" / "bad" / "ok.png")
    (good.parent / "cut.png").write_bytes(good.read_bytes()[:2000])
    (good.parent / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    Image.new("I;16", (96, 96)).save(good.parent / "deep.tif")
    save(tmp_path / "g" / "small" / "tiny.png", side=14)
    save(tmp_path / "g" / "fine" / "ok.png")
    (tmp_path / "g" / "none").mkdir()
    result = run(tmp_path / "g", tmp_path / "out")
    found = {s["slide_id"]: s for s in result.summaries}
    assert {name: s["reason"] for name, s in found.items()} == {
        "bad": "unreadable",
        "fine": None,
        "none": "no-images",
        "small": "image-too-small",
    }
    message = found["bad"]["warnings"][0]
    assert all(name in message for name in ("3 of 4", "cut.png", "gone.jpg", "deep.tif", "--skip-unreadable"))
    assert "tiny.png (14 x 14 px, 3.5 x 3.5 um" in found["small"]["warnings"][0]
    # The same command with the option takes up what failed, and only that.
    again = {s["slide_id"]: s for s in run(tmp_path / "g", tmp_path / "out", skip_unreadable=True).summaries}
    assert {name: s["status"] for name, s in again.items()} == {
        "bad": "ok",
        "fine": "ok",
        "none": "failed",
        "small": "failed",  # no image is left
    }
    assert again["bad"]["n_cells"] == 1
    assert set(again["bad"]["gallery"]["skipped"]) == {"cut.png", "gone.jpg", "deep.tif"}
    listed = {r["image"]: r["status"] for r in rows_of(tmp_path / "out" / "slides" / "bad" / "images.csv")}
    assert listed == {"ok.png": "ok", "cut.png": "unreadable", "gone.jpg": "unreadable", "deep.tif": "unreadable"}


def test_one_picture_under_two_labels_is_reported(tmp_path: Path) -> None:
    first = save(tmp_path / "g" / "P1" / "monocyte" / "a.png")
    save(tmp_path / "g" / "P1" / "lymphocyte" / "b.png")
    shutil.copy(first, tmp_path / "g" / "P1" / "lymphocyte" / "c.png")
    (summary,) = run(tmp_path / "g", tmp_path / "out").summaries
    assert any("under several labels" in w and "monocyte/a.png" in w for w in summary["warnings"])
    ids = pq.read_table(tmp_path / "out" / "slides" / "P1" / "cells.parquet").column("cell_id").to_pylist()
    assert len(set(ids)) == 3


def test_an_empty_picture_is_typed_and_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "g" / "P1" / "blank.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (96, 96), (244, 238, 236)).save(path)
    (summary,) = run(tmp_path / "g", tmp_path / "out").summaries
    table = pq.read_table(tmp_path / "out" / "slides" / "P1" / "cells.parquet")
    assert table.column("class_name").null_count == 0
    assert table.column("area_um2").null_count == 1
    assert summary["quality"]["images without a measured cell"] == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mpp": None}, "needs --mpp"),
        ({"mpp": 9.0}, "0.05 to 5"),
        ({"config": "trephine"}, "trephine"),
        ({"overrides": {"cells.classifier": None}}, "needs cells.classifier"),
        ({"overrides": {"segmentation.mpp": 0.5}}, "segmentation of the configuration"),
        ({"overrides": {"exports.labels": True}}, "exports.labels"),
        ({"label_taxonomy": "nobody"}, "nobody"),
    ],
)
def test_what_a_gallery_cannot_have(gallery: Path, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan_gallery(gallery, tmp_path / "out", **{"mpp": MPP, **options})
    assert not (tmp_path / "out").exists()


def test_class_folders_are_no_patients(tmp_path: Path) -> None:
    save(tmp_path / "lymphocyte" / "a.png")
    with pytest.raises(ConfigError, match="its folders are classes"):
        plan_gallery(tmp_path, tmp_path / "out", mpp=MPP)


def test_embeddings_can_be_switched_off(gallery: Path, tmp_path: Path) -> None:
    run(gallery, tmp_path, overrides={**CPU, "cells.embedding": False})
    assert "embedding" not in pq.read_schema(tmp_path / "slides" / "P2" / "cells.parquet").names


@pytest.mark.data
def test_real_cells_agree_with_their_folders_and_with_evaluate_cells(data_root: Path, tmp_path: Path) -> None:
    from wsi_pipeline.cells.classifier import load_classifier
    from wsi_pipeline.evaluation.cells import _probabilities

    picked = []
    for name in ("eosinophil", "lymphocyte", "platelet"):
        for path in sorted((data_root / "pbc" / name).iterdir())[:6]:
            link = tmp_path / "g" / "P1" / name / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
            picked.append(path)
    (summary,) = run(tmp_path / "g", tmp_path / "out", mpp=0.198).summaries
    table = pq.read_table(tmp_path / "out" / "slides" / "P1" / "cells.parquet")
    classifier = load_classifier("pbc-blast")
    expected = _probabilities(classifier, picked, 0.198, 64)
    p = np.stack([table.column(f"p_{c}").to_numpy() for c in classifier.classes], axis=1)
    np.testing.assert_array_equal(p, expected)
    total = summary["agreement"]["rows"][-1]
    assert total["n"] == 18
    assert total["agree"] >= 15
    area = {n: [] for n in ("eosinophil", "lymphocyte", "platelet")}
    for name, value in zip(table.column("label_given").to_pylist(), table.column("area_um2").to_pylist(), strict=True):
        area[name].append(value)
    medians = {name: float(np.nanmedian(np.array(values, float))) for name, values in area.items()}
    assert medians["platelet"] < 40 < medians["lymphocyte"] < medians["eosinophil"] < 350
    nucleus = table.filter(pq_equal(table, "platelet")).column("nucleus_area_um2")
    assert nucleus.null_count == len(nucleus) > 0


def pq_equal(table: Any, name: str) -> Any:
    import pyarrow.compute as pc

    return pc.equal(table.column("class_name"), name)
