"""Shapes of red cells: the machine against scikit-learn, the pass over a table, and what it leaves alone."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wsi_pipeline.cells.red_cell_model import (
    SLOPE,
    UNCATEGORISED,
    RedCellClassifier,
    load_red_cell_classifier,
)
from wsi_pipeline.cells.red_cells import (
    FEATURE_NAMES,
    PLAIN,
    RedCellPass,
    RedReference,
    red_features,
    scan,
)
from wsi_pipeline.errors import DataError, MissingWeightsError, ModelError
from wsi_pipeline.taxonomies import load_taxonomy
from wsi_pipeline.training.red_cells.train import fit_svm
from wsi_pipeline.weights import shipped_weights


def rows(n: int, seed: int = 0, kind: str = "red") -> pa.Table:
    """Return rows of a cell table that look like red cells of 7 um."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {name: rng.uniform(0.2, 0.9, n).astype(np.float32) for name in PLAIN}
    columns["area_um2"] = rng.normal(38, 4, n).astype(np.float32)
    columns["solidity"] = np.full(n, 0.98, np.float32)
    columns |= {
        "kind": [kind] * n,
        "class_name": ["red_cell"] * n,
        "class_probability": np.full(n, 0.9, np.float32),
        "truncated": np.zeros(n, bool),
        "seed_x": np.arange(n, dtype=np.int32),
        "seed_y": np.zeros(n, np.int32),
    }
    return pa.table(columns)


def changed(table: pa.Table, name: str, values: npt.ArrayLike) -> pa.Table:
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, pa.array(np.asarray(values), field.type))


def test_scores_are_those_of_scikit_learns_decisions() -> None:
    from sklearn.svm import SVC

    rng = np.random.default_rng(0)
    target = rng.integers(0, 4, 120)
    features = (rng.normal(size=(120, 6)) + target[:, None]).astype(np.float32)
    features[::17, 3] = np.nan
    tensors, gamma = fit_svm(features, target, 4)
    card = {
        "name": "test", "classes": list("abcd"), "features": list("uvwxyz"), "taxonomy": "red-cells", "gamma": gamma,
        "temperature": 2.0, "least_probability": 0.5,
    }  # fmt: skip
    mine = RedCellClassifier(card, tensors)
    filled = np.where(np.isfinite(features), features, np.nanmedian(features, axis=0)).astype(np.float64)
    standard = (filled - filled.mean(axis=0)) / filled.std(axis=0)
    machine = SVC(C=10, gamma=1 / 6, decision_function_shape="ovo").fit(standard, target)
    expected = np.zeros((120, 4))
    decisions = machine.decision_function(standard)
    for pair, (i, j) in enumerate(itertools.combinations(range(4), 2)):
        expected[:, i] -= np.logaddexp(0, -SLOPE * decisions[:, pair])
        expected[:, j] -= np.logaddexp(0, SLOPE * decisions[:, pair])
    np.testing.assert_allclose(mine.scores(features), expected, rtol=1e-3, atol=2e-4)
    p = mine.predict(features)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(mine.scores(features)[40:60], mine.scores(features[40:60]))
    names, best = mine.answer(features)
    np.testing.assert_array_equal(names == UNCATEGORISED, best < 0.5)
    with pytest.raises(DataError, match=r"\(n, 6\)"):
        mine.predict(features[:, :5])
    with pytest.raises(ModelError, match="bias is"):
        RedCellClassifier(card, {**tensors, "bias": tensors["bias"][:-1]})


def test_the_reference_is_the_median_of_whole_red_cells_in_any_order(tmp_path: Path) -> None:
    table = changed(rows(1001), "truncated", np.arange(1001) % 7 == 0)
    others = rows(300, 1, "white")
    whole = RedReference.of([table, others])
    kept = table.column("area_um2").to_numpy()[np.arange(1001) % 7 != 0]
    assert whole.n_cells == len(kept)
    assert whole.median[0] == pytest.approx(np.median(kept), abs=0.1)
    assert RedReference.of([others, table.slice(500), table.slice(0, 500)]) == whole
    assert RedReference.of([others]).n_cells == 0
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=100)
    assert RedReference.of(scan(tmp_path / "t.parquet")) == whole


def test_a_slide_twice_as_dense_and_large_has_the_same_relative_features() -> None:
    table = rows(200)
    twice = table
    for name in ("area_um2", "cell_od_red", "cell_od_green", "cell_od_blue"):
        twice = changed(twice, name, 2 * table.column(name).to_numpy())
    one, two = (red_features(t, RedReference.of([t])) for t in (table, twice))
    relative = [i for i, n in enumerate(FEATURE_NAMES) if n.endswith("_over_median") or n == "green_over_blue"]
    np.testing.assert_allclose(two[:, relative], one[:, relative], rtol=5e-3)


def test_the_pass_names_whole_single_red_cells_whatever_the_bands() -> None:
    table = pa.concat_tables([rows(60), rows(20, 1, "white"), rows(5, 2, "platelet")])
    area, solid, cut = (table.column(n).to_numpy().copy() for n in ("area_um2", "solidity", "truncated"))
    area[:2] = 200  # a clump
    area[2], solid[2] = 38 * 1.8, 0.85  # two side by side
    cut[3] = True
    for name, values in (("area_um2", area), ("solidity", solid), ("truncated", cut)):
        table = changed(table, name, values)
    classifier = load_red_cell_classifier("red-cells")
    reference = RedReference.of([table])
    whole = RedCellPass(classifier=classifier, reference=reference)
    named = whole(table)
    parts = RedCellPass(classifier=classifier, reference=reference)
    again = pa.concat_tables([parts(table.slice(i, 9)) for i in range(0, len(table), 9)])
    assert again.equals(named)
    assert parts.counts == whole.counts
    assert dict(whole.left_out) == {"truncated": 1, "overlapping": 3}
    codes = np.array(named.column("class_name").to_pylist())
    shapes = set(load_taxonomy("red-cells").codes)
    assert set(codes[:4]) == {"red_cell"} == set(codes[60:])
    assert set(codes[4:60]) <= shapes
    assert sum(whole.counts.values()) == 56 == whole.diameters.sum() == whole.sums[0]
    p = named.column("class_probability").to_numpy()
    np.testing.assert_array_equal(p[60:], np.float32(0.9))
    assert ((p[4:60] < classifier.least_probability) == (codes[4:60] == UNCATEGORISED)).all()
    untouched = [n for n in table.column_names if n not in ("class_name", "class_probability")]
    assert named.select(untouched).equals(table.select(untouched))


def test_a_slide_unlike_all_that_was_learnt_is_told() -> None:
    classifier = load_red_cell_classifier("red-cells")
    domain = classifier.card["domain"]
    middle = (np.array(domain["lower"]) + np.array(domain["upper"])) / 2
    table = rows(30)
    for name in PLAIN:
        table = changed(table, name, np.full(30, middle[FEATURE_NAMES.index(name)], np.float32))
    table = changed(table, "solidity", np.full(30, 0.98))
    names = ("area_um2", "cell_od_red", "cell_od_green", "cell_od_blue")
    reference = RedReference(median=tuple(float(middle[FEATURE_NAMES.index(n)]) for n in names), n_cells=30)
    inside = RedCellPass(classifier=classifier, reference=reference)
    inside(table)
    assert not {"cell_od_red", "cell_glcm_contrast"} & set(inside.outside())
    dense = RedCellPass(classifier=classifier, reference=reference)
    dense(changed(table, "cell_od_red", np.full(30, 2.0)))
    assert "cell_od_red" in dense.outside()


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match="red-cells"):
        load_red_cell_classifier("zebra")
    with pytest.raises(ModelError, match="is for cells"):
        load_red_cell_classifier("pbc-blast")
    shipped = shipped_weights()["red-cells"].path
    copy = tmp_path / "copy.safetensors"
    shutil.copy(shipped, copy)
    card = json.loads(shipped.with_suffix(".json").read_text())
    copy.with_suffix(".json").write_text(json.dumps({**card, "features": card["features"][1:]}))
    with pytest.raises(ModelError, match="features are not those"):
        load_red_cell_classifier(str(copy))
    copy.with_suffix(".json").write_text(json.dumps({k: v for k, v in card.items() if k != "gamma"}))
    with pytest.raises(ModelError, match="lacks gamma"):
        load_red_cell_classifier(str(copy))
    copy.with_suffix(".json").write_text(json.dumps(card))
    copy.write_bytes(copy.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ModelError, match="SHA-256"):
        load_red_cell_classifier(str(copy))


def test_the_shipped_card_says_how_it_errs() -> None:
    card = shipped_weights()["red-cells"].card
    assert tuple(card["classes"]) == load_taxonomy("red-cells").classifier_classes
    assert card["specimens"] == ["blood_smear"]
    assert shipped_weights()["red-cells"].path.stat().st_size < 3_000_000
    figures = {m["name"]: m for m in card["metrics"]}
    assert figures["macro-F1"]["value"] > 0.65 > figures["macro-F1"]["baseline"]
    assert figures["macro-F1"]["lower"] < figures["macro-F1"]["value"] < figures["macro-F1"]["upper"]
    assert {"F1 of schistocyte", "F1 of teardrop"} <= set(figures)
    for entry in card["errors"]["false_positives"].values():
        assert {"normal", "other", "elsewhere"} == set(entry)
