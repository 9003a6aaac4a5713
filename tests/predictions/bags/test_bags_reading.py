"""Bags from runs: pooling, order, labels of folders, and runs that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_runs import CLASSES, MadeSlide, make_run

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.bags import CellBag, list_runs, read_bags
from wsi_pipeline.predictions.bags.cells import MORPHOLOGY
from wsi_pipeline.predictions.bags.red import pool_red_cells

LABELS = [("pbc-blast", "promyelocyte"), ("mll23", "myeloblast"), ("five-part", "neutrophil"), None]


def same(a: CellBag, b: CellBag) -> bool:
    """Whether two bags are the same to the byte, but for where they were read."""
    for name in (f.name for f in fields(CellBag) if f.name not in ("sources", "images")):
        x, y = getattr(a, name), getattr(b, name)
        if isinstance(x, np.ndarray):
            if x.dtype != y.dtype or x.shape != y.shape or x.tobytes() != y.tobytes():
                return False
        elif x != y:
            return False
    return True


def test_slides_of_a_patient_pool_cell_by_cell(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "r",
        [
            MadeSlide(slide_id="a", subject="X", mix={"blast": 5, "lymphocyte": 3}, red=70, platelets=2, seed=1),
            MadeSlide(slide_id="b", subject="X", mix={"blast": 2}, red=10, seed=2),
            MadeSlide(slide_id="c", mix={"monocyte": 4}, seed=3),
            MadeSlide(slide_id="m", subject="X", mix={"blast": 1}, specimen="marrow_smear", seed=4),
        ],
    )
    blood, marrow, alone = read_bags([run])
    assert (blood.subject_id, blood.specimen, marrow.specimen) == ("X", "blood_smear", "marrow_smear")
    assert len(blood) == 10
    assert blood.slide_ids == ("a", "b")
    assert blood.other_counts == {"platelet": 2, "red": 80}
    assert blood.classes == CLASSES
    assert sorted(blood.cell_ids) == list(blood.cell_ids)
    assert np.bincount(blood.slide).tolist() == [8, 2]
    assert np.bincount(blood.likeliest, minlength=len(CLASSES))[CLASSES.index("blast")] == 7
    assert blood.embedding is not None
    assert blood.embedding.dtype == np.float32
    assert blood.digests is None
    assert blood.images is None
    assert (alone.subject_id, alone.patient, alone.patient_id) == ("c", "", "c")
    by_slide = read_bags([run], level="slide", embedding=False)
    assert [(b.subject_id, b.patient, len(b)) for b in by_slide] == [("a", "X", 8), ("b", "X", 2), ("c", "", 4),
                                                                     ("m", "X", 1)]  # fmt: skip
    assert by_slide[0].embedding is None
    # A table that knows the patient of a slide whose run did not.
    assert [len(bag) for bag in read_bags([run], patients={"c": "X"})] == [14, 1]


def test_rows_and_runs_in_another_order_give_the_same_bytes(tmp_path: Path) -> None:
    a = MadeSlide(slide_id="a", subject="X", mix={"blast": 40, "lymphocyte": 30}, red=200, seed=1)
    b = MadeSlide(slide_id="b", subject="X", mix={"monocyte": 25}, seed=2)
    straight = read_bags([make_run(tmp_path / "1", [a]), make_run(tmp_path / "2", [b])])
    turned = read_bags([
        make_run(tmp_path / "3", [b], shuffle=5, row_group=7), make_run(tmp_path / "4", [a], shuffle=6, row_group=11)
    ])  # fmt: skip
    assert [same(x, y) for x, y in zip(straight, turned, strict=True)] == [True]
    assert not same(straight[0], read_bags([tmp_path / "1"])[0])


def test_a_gallery_keeps_images_digests_and_labels(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "r",
        [MadeSlide(slide_id="P_1", subject="P 1", mix={"blast": 4}, gallery=True, labels=LABELS)],
    )
    (bag,) = read_bags([run])
    assert bag.subject_id == "P 1"
    assert bag.images is not None
    order = [int(Path(path).stem) for path in bag.images]
    assert Path(bag.images[0]).parent == run / "slides" / "P_1" / "images"
    assert bag.digests is not None
    assert bag.digests.tolist() == bag.cell_ids.tolist()
    given = dict(zip(order, bag.given.tolist(), strict=True))
    # A myeloblast is a blast; a neutrophil of five parts may be a band or not, so it is no class here.
    assert given == {0: CLASSES.index("promyelocyte"), 1: CLASSES.index("blast"), 2: -1, 3: -1}
    assert bag.given_labels is not None
    said = dict(zip(order, bag.given_labels.tolist(), strict=True))
    assert said == {0: "pbc-blast/promyelocyte", 1: "mll23/myeloblast", 2: "five-part/neutrophil", 3: ""}


def test_a_folder_that_no_taxonomy_knows_is_a_label_but_no_class(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", [MadeSlide(slide_id="P", mix={"blast": 4}, gallery=True, labels=[None] * 4)])
    path = run / "slides" / "P" / "cells.parquet"
    table = pq.read_table(path)
    names = pa.array(["Jeune ind\u00e9termin\u00e9e", "Jeune inde\u0301termine\u0301e", " ", None], pa.string())
    pq.write_table(table.set_column(table.schema.get_field_index("label_given"), "label_given", names), path)
    (bag,) = read_bags([run])
    assert bag.given_labels is not None
    assert sorted(bag.given_labels.tolist()) == ["", "", *["folder/jeune ind\u00e9termin\u00e9e"] * 2]
    assert set(bag.given.tolist()) == {-1}


def test_one_slide_under_two_names_counts_once(tmp_path: Path) -> None:
    images = [f"image {i}" for i in range(6)]
    first = MadeSlide(slide_id="a", subject="X", mix={"blast": 6}, gallery=True, images=images)
    again = MadeSlide(slide_id="b", subject="X", mix={"blast": 4}, gallery=True, images=images[:4])
    (bag,) = read_bags([make_run(tmp_path / "r", [first, again])])
    assert len(bag) == 6
    assert set(bag.slide.tolist()) == {0}


def test_a_label_that_a_reader_wrote_goes_before_the_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", [MadeSlide(slide_id="P", mix={"blast": 4}, gallery=True, labels=LABELS)])
    path = run / "slides" / "P" / "cells.parquet"
    table = pq.read_table(path)
    pq.write_table(table.append_column("label", pa.array(["MON", None, "monocyte", None])), path)
    (bag,) = read_bags([run])
    named = [CLASSES[i] if i >= 0 else None for i in bag.given]
    assert sorted(map(str, named)) == ["None", "blast", "monocyte", "monocyte"]
    pq.write_table(table.append_column("label", pa.array(["plasma", None, None, None])), path)
    with pytest.raises(DataError, match="'plasma', which is no class of pbc-blast"):
        read_bags([run])


def test_cut_cells_count_and_are_not_measured(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", [MadeSlide(slide_id="a", mix={"blast": 3})])
    path = run / "slides" / "a" / "cells.parquet"
    table = pq.read_table(path)
    at = table.schema.get_field_index("truncated")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array([True, False, None])), path)
    (bag,) = read_bags([run])
    area = bag.morphology[:, MORPHOLOGY.index("area_um2")]
    assert len(bag) == 3
    assert np.isnan(area).sum() == 1
    assert all(np.isnan(row).all() or np.isfinite(area[i]) for i, row in enumerate(bag.morphology))


def test_failed_empty_and_sections_have_no_bag_and_are_named(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "r",
        [
            MadeSlide(slide_id="good", mix={"blast": 2}),
            MadeSlide(slide_id="bad", mix={}, status="failed"),
            MadeSlide(slide_id="cut", mix={"blast": 1}, specimen="trephine"),
            MadeSlide(slide_id="none", mix={}, red=5),
        ],
    )
    assert [(s.slide_id, s.status) for s in list_runs([run])[1]] == [("bad", "failed"), ("cut", "section")]
    assert [(b.subject_id, len(b)) for b in read_bags([run])] == [("good", 2), ("none", 0)]
    empty = make_run(tmp_path / "e", [MadeSlide(slide_id="bad", mix={}, status="failed")])
    with pytest.raises(DataError, match=r"no slide with cells to read: bad \(failed, no-cells\)"):
        read_bags([empty])


def _summary(run: Path, **change: object) -> None:
    path = run / "slides" / "a" / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def _embeddings(run: Path, value: float) -> None:
    path = run / "slides" / "a" / "cells.parquet"
    cells = pq.read_table(path)
    place = cells.schema.get_field_index("embedding")
    kind = cells.schema.field(place).type
    filled = pa.FixedSizeListArray.from_arrays(
        pa.array(np.full(len(cells) * kind.list_size, value, np.float16)), kind.list_size
    )
    pq.write_table(cells.set_column(place, cells.schema.field(place), filled.cast(kind)), path)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no summary": (lambda run: (run / "slides/a/summary.json").unlink(), "half-written: it has no summary"),
    "no cells": (lambda run: (run / "slides/a/cells.parquet").unlink(), "half-written: it has no cells.parquet"),
    "no slides.csv": (lambda run: (run / "slides.csv").unlink(), "half-written: it has no slides.csv"),
    "fewer cells": (lambda run: _summary(run, n_cells=9), "has 2 cells, its summary.json says 9"),
    "damaged table": (lambda run: (run / "slides/a/cells.parquet").write_bytes(b"PAR1"), "cannot be read as a table"),
    "damaged summary": (lambda run: (run / "slides/a/summary.json").write_text("[]"), "is not the summary of a slide"),
    "no classifier": (lambda run: _summary(run, provenance={"cell classifier SHA-256": None}), "cells.classifier"),
    "other taxonomy": (lambda run: _summary(run, taxonomy="five-part"), "are not in taxonomy five-part"),
    "outside": (lambda run: (run / "slides.csv").write_text("slide_id,status,reason\n../a,ok,\n"), "no slide_id"),
    "above": (lambda run: (run / "slides.csv").write_text("slide_id,status,reason\n..,ok,\n"), "no slide_id"),
    "another slide": (lambda run: _summary(run, slide_id="../../b"), r"summary.json is of slide '../../b'"),
    "no numbers": (lambda run: _embeddings(run, np.nan), "embeddings of 2 white cells hold values that are no numbers"),
    "no table": (lambda run: (run / "slides.csv").write_text("path\n/x\n"), "is not the table of a run"),
}


@pytest.mark.parametrize("what", BAD)
def test_runs_that_cannot_be_used(tmp_path: Path, what: str) -> None:
    run = make_run(tmp_path / "r", [MadeSlide(slide_id="a", mix={"blast": 2})])
    damage, said = BAD[what]
    damage(run)
    with pytest.raises(DataError, match=said):
        read_bags([run])


def test_runs_that_do_not_go_together(tmp_path: Path) -> None:
    one = make_run(tmp_path / "1", [MadeSlide(slide_id="a", mix={"blast": 2})])
    twin = make_run(tmp_path / "2", [MadeSlide(slide_id="a", mix={"blast": 2})])
    with pytest.raises(DataError, match="both have a slide a"):
        read_bags([one, twin])
    with pytest.raises(DataError, match="both have a slide a"):
        read_bags([one, one])
    other = {"provenance": {"cell classifier SHA-256": "cd" * 32}}
    second = make_run(tmp_path / "3", [MadeSlide(slide_id="b", mix={"blast": 2}, summary=other)])
    with pytest.raises(DataError, match=r"2 classifiers: abab\w+ \(a\); cdcd\w+ \(b\)"):
        read_bags([one, second])
    bare = make_run(tmp_path / "4", [MadeSlide(slide_id="c", mix={"blast": 2}, embedding=False)])
    with pytest.raises(DataError, match=r"run again with --set cells\.embedding=true"):
        read_bags([one, bare])
    assert len(read_bags([one, bare], embedding=False)) == 2
    named = make_run(tmp_path / "5", [MadeSlide(slide_id="d", subject="a", mix={"blast": 2})])
    with pytest.raises(DataError, match="name of a patient and of a slide"):
        read_bags([one, named])
    for nothing, said in (([], "no run was given"), ([tmp_path / "9"], "is no folder"), ([tmp_path], "is no run")):
        with pytest.raises(DataError, match=said):
            read_bags(nothing)


def test_red_cells_pool_by_their_numbers() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(7, 0.5, 300), rng.normal(8, 1.0, 100)]

    def entry(d: np.ndarray, n_odd: int) -> dict[str, object]:
        size = {"mean": d.mean(), "cv_percent": 100 * d.std() / d.mean()}
        rows = [{"class": "schistocyte", "count": n_odd}, {"class": "red_cell_normal", "count": len(d) - n_odd}]
        return {"rows": rows, "size": {"n": len(d), "diameter_um": size, "area_um2": None}}

    pooled = pool_red_cells([entry(parts[0], 3), None, entry(parts[1], 5)])
    both = np.concatenate(parts)
    assert pooled["n"] == 400
    assert pooled["share_schistocyte"] == 8 / 400
    assert pooled["diameter_um"] == pytest.approx(both.mean())
    assert pooled["diameter_um_cv"] == pytest.approx(both.std() / both.mean())
    assert "area_um2" not in pooled
    assert pool_red_cells([None]) == {}
