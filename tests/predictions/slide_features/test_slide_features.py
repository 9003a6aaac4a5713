"""Features of slides and patients: values against plain sums, pooling, order, names, the page."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import CLASSES, DIM, MadeSlide, make_run
from typer.testing import CliRunner

from wsi_pipeline.cells.out_of_distribution import CUT_OFF
from wsi_pipeline.cli.export import app
from wsi_pipeline.errors import DataError, ModelError
from wsi_pipeline.predictions.bags import CellBag, read_bags
from wsi_pipeline.predictions.bags.cells import MORPHOLOGY
from wsi_pipeline.predictions.slide_features import (
    SlideFeatures,
    Vocabulary,
    feature_table,
    immature_weight,
    slide_features,
)
from wsi_pipeline.predictions.slide_features.document import page
from wsi_pipeline.predictions.slide_features.shape import MEASURES, QUANTILES, STAIN, quantiles
from wsi_pipeline.taxonomies import load_taxonomy, taxonomy_names

MIX = {"segmented_neutrophil": 20, "lymphocyte": 10, "blast": 8, "promyelocyte": 4, "erythroblast": 5, "artefact": 3}
BLOOD = 42  # without erythroblasts and artefacts


def make(tmp_path: Path, *slides: MadeSlide) -> list[CellBag]:
    return read_bags([make_run(tmp_path / "r", slides)])


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> CellBag:
    labels = [("mll23", "abnormal_promyelocyte")] * 2 + [("pbc-blast", "blast")] * 6 + [None] * 42
    slide = MadeSlide(slide_id="a", subject="X", mix=MIX, gallery=True, labels=labels, seed=1)
    return make(tmp_path_factory.mktemp("runs"), slide)[0]


def values(found: SlideFeatures) -> dict[str, tuple[float, int]]:
    return {name: (v, n) for name, v, n in zip(found.names, found.values.tolist(), found.n.tolist(), strict=True)}


def of(bag: CellBag) -> dict[str, tuple[float, int]]:
    return values(slide_features(bag, vocabulary=Vocabulary.of([bag])))


def test_shares_are_of_the_denominator(bag: CellBag) -> None:
    found = of(bag)
    assert found["answered.blast"] == (8 / BLOOD, BLOOD)
    assert found["answered.immature"] == (12 / BLOOD, BLOOD)
    assert found["answered.neutrophils"] == (20 / BLOOD, BLOOD)
    assert found["answered.erythroblast"] == (5 / BLOOD, BLOOD)
    inside = [c for c in CLASSES if c not in ("erythroblast", "artefact", "platelet")]
    p = {c: float(bag.probabilities[:, i].sum(dtype=np.float64)) for i, c in enumerate(CLASSES)}
    assert found["posterior.blast"][0] == pytest.approx(p["blast"] / sum(p[c] for c in inside))
    assert sum(found[f"posterior.{c}"][0] for c in inside) == pytest.approx(1)


def test_the_specimen_decides_the_denominator(bag: CellBag) -> None:
    marrow = of(replace(bag, specimen="marrow_smear"))
    assert marrow["answered.erythroblast"] == (5 / (BLOOD + 5), BLOOD + 5)


def test_labels_stand_in_the_classifiers_words_and_in_their_own(bag: CellBag) -> None:
    found = of(bag)
    # An abnormal promyelocyte is no promyelocyte to the classifier, so of its words only the blasts were given.
    assert found["given.blast"] == (1.0, 6)
    assert found["given.promyelocyte"] == (0.0, 6)
    assert found["label.mll23.abnormal_promyelocyte"] == (1.0, 2)
    assert np.log2(2.5 / 0.5) == pytest.approx(found["label.mll23.ratio_promyelocyte_blast"][0])
    without = of(replace(bag, given=np.full(len(bag), -1), given_labels=None))
    assert np.isnan(without["given.blast"][0])
    assert without["given.blast"][1] == 0
    assert not any(name.startswith("label.") for name in without)
    # Nothing else hangs on labels.
    same = [n for n in without if not n.startswith("given.")]
    assert all(np.array_equal(without[n], found[n], equal_nan=True) for n in same)


def test_ratios_have_half_a_cell_on_each_side(bag: CellBag) -> None:
    found = of(bag)
    assert found["answered.ratio_nl"] == (pytest.approx(np.log2(20.5 / 10.5)), 30)
    assert found["answered.ratio_promyelocyte_blast"] == (pytest.approx(np.log2(4.5 / 8.5)), 12)
    assert found["answered.ratio_me"] == (pytest.approx(np.log2(24.5 / 5.5)), 29)


def test_quantiles_of_measured_cells_and_no_value_of_too_few(bag: CellBag) -> None:
    found = of(bag)
    rows = bag.likeliest == CLASSES.index("lymphocyte")
    area = bag.morphology[rows, MORPHOLOGY.index("area_um2")].astype(np.float64)
    for q in (10, 50, 90):
        expected = (pytest.approx(np.quantile(area, q / 100)), 10)
        assert found[f"morphology.lymphocytes.area_um2.q{q}"] == expected
    assert np.isnan(found["morphology.all_promyelocytes.area_um2.q50"][0])
    assert found["morphology.all_promyelocytes.area_um2.q50"][1] == 4
    assert found["morphology.monocytes.nc_ratio.q10"][1] == 0


def test_statistics_of_embeddings_are_weighted_by_probability(bag: CellBag) -> None:
    found = of(bag)
    assert bag.embedding is not None
    weight = immature_weight(bag)
    named = [CLASSES.index(c) for c in ("promyelocyte", "myelocyte", "metamyelocyte", "blast")]
    np.testing.assert_allclose(weight, bag.probabilities[:, named].sum(axis=1), rtol=1e-6)
    mean = np.average(bag.embedding.astype(np.float64), axis=0, weights=weight)
    got = [found[f"embedding.immature.mean.{i:03d}"] for i in range(DIM)]
    np.testing.assert_allclose([v for v, _ in got], mean)
    assert {n for _, n in got} == {round(weight.sum())}
    assert np.isnan(of(bag.take([0, 1]))["embedding.all.mean.000"][0])


def test_dysplasia_and_attributes(bag: CellBag) -> None:
    told = np.full((len(bag), 3), np.nan, np.float32)
    told[:10, 0], told[:3, 0] = 0, 1  # hypogranular
    told[2:8, 1], told[4, 1] = 0, 1  # pseudo-Pelger, of segmented ones
    told[:4, 2] = (0.2, 0.5, 0.9, 0.4)
    names = ("measured_hypogranular", "measured_pseudo_pelger", "auer_rod")
    found = of(replace(bag, attributes=told, attribute_names=names))
    assert found["dysplasia.hypogranular"] == (0.3, 10)
    assert found["dysplasia.pseudo_pelger"] == (pytest.approx(1 / 6), 6)
    assert found["dysplasia.fraction"] == (0.4, 10)
    assert found["attribute.auer_rod"] == (0.5, 4)
    assert "attribute.measured_hypogranular" not in found


def test_red_cells_and_doubt(bag: CellBag) -> None:
    red = {"n": 500.0, "share_schistocyte": 0.02, "diameter_um": 7.1, "diameter_um_cv": 0.1, "area_um2_cv": 0.2}
    found = of(replace(bag, red=red, other_counts={"red": 600, "platelet": 30}))
    assert found["red.share_schistocyte"] == (0.02, 500)
    assert found["red.platelets_per_1000"] == (50.0, 600)
    few = of(replace(bag, red={**red, "n": 99.0}))
    assert np.isnan(few["red.share_schistocyte"][0])
    assert bag.outlier is not None
    assert found["doubt.unusual"] == (pytest.approx((bag.outlier > CUT_OFF).mean()), len(bag))
    sure = replace(bag, probabilities=np.eye(len(CLASSES), dtype=np.float32)[bag.likeliest])
    assert of(sure)["doubt.entropy"][0] == pytest.approx(0, abs=1e-9)


def test_slides_of_a_patient_are_pooled_not_averaged(tmp_path: Path) -> None:
    a = MadeSlide(slide_id="a", subject="X", mix={"blast": 90, "lymphocyte": 10}, seed=1)
    b = MadeSlide(slide_id="b", subject="X", mix={"blast": 1, "lymphocyte": 9}, seed=2)
    run = make_run(tmp_path / "r", [a, b])
    (patient,) = read_bags([run])
    words = Vocabulary.of([patient])
    pooled = values(slide_features(patient, vocabulary=words))
    parts = [values(slide_features(s, vocabulary=words)) for s in read_bags([run], level="slide")]
    assert pooled["answered.blast"] == (91 / 110, 110)
    counted = [n for n in words.names if n.startswith(("answered.", "posterior.", "doubt.", "stain."))]
    assert all(pooled[name][1] == sum(part[name][1] for part in parts) for name in counted)


def test_the_order_of_rows_and_runs_changes_no_byte(tmp_path: Path) -> None:
    a = MadeSlide(slide_id="a", subject="X", mix=MIX, red=150, platelets=4, seed=1)
    b = MadeSlide(slide_id="b", subject="Y", mix=MIX, seed=2)
    straight = feature_table(read_bags([make_run(tmp_path / "1", [a]), make_run(tmp_path / "2", [b])]))
    turned = feature_table(
        read_bags([make_run(tmp_path / "3", [b], shuffle=5), make_run(tmp_path / "4", [a], shuffle=6, row_group=9)])
    )
    assert straight.names == turned.names
    assert straight.values.tobytes() == turned.values.tobytes()
    assert straight.n.tobytes() == turned.n.tobytes()


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_shuffled_cells_give_the_same_bytes(bag: CellBag, seed: int) -> None:
    words = Vocabulary.of([bag])
    shuffled = bag.take(np.random.default_rng(seed).permutation(len(bag)))
    before, after = (slide_features(b, vocabulary=words) for b in (bag, shuffled))
    assert before.values.tobytes() == after.values.tobytes()


@pytest.mark.parametrize("n", [0, 1, 3])
def test_few_cells_give_no_numbers_and_no_errors(bag: CellBag, n: int) -> None:
    found = slide_features(bag.take(np.arange(n)), vocabulary=Vocabulary.of([bag]))
    assert not np.isinf(found.values).any()
    quantiles = [v for name, v in zip(found.names, found.values, strict=True) if name.startswith("morphology.")]
    assert np.isnan(quantiles).all()
    assert not n or not np.isnan(values(found)["doubt.entropy"][0])


def test_every_feature_has_one_name_a_unit_and_words() -> None:
    for name in taxonomy_names():
        taxonomy = load_taxonomy(name)
        if not taxonomy.classifier_classes or not taxonomy.denominators:
            continue
        words = Vocabulary(taxonomy=name, classes=taxonomy.classifier_classes, label_sets=("deepapl",), embedding_dim=3)
        assert len(set(words.names)) == len(words.names)
        assert all(f.unit and len(f.description) > 10 for f in words.features)
        assert Vocabulary.from_dict(words.to_dict()) == words
    assert set(MEASURES) | set(STAIN) <= set(MORPHOLOGY)
    with pytest.raises(ModelError, match="damaged"):
        Vocabulary.from_dict({"taxonomy": "pbc-blast"})


def test_bags_of_another_classifier_are_refused(bag: CellBag) -> None:
    words = Vocabulary.of([bag])
    with pytest.raises(DataError, match="typed in taxonomy five-part"):
        slide_features(replace(bag, taxonomy="five-part"), vocabulary=words)
    with pytest.raises(DataError, match=r"X has no embeddings, the features need length 8"):
        slide_features(replace(bag, embedding=None), vocabulary=words)
    with pytest.raises(DataError, match="classifiers of different classes"):
        Vocabulary.of([bag, replace(bag, subject_id="Y", classes=CLASSES[:-1])])
    with pytest.raises(DataError, match="no bag of cells"):
        feature_table([])


def test_export_writes_values_and_their_cells(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "r",
        [
            MadeSlide(slide_id="a", subject="=1+2", mix=MIX, seed=1),
            MadeSlide(slide_id="b", subject="Y", mix={"blast": 2}, seed=2),
            MadeSlide(slide_id="c", mix={}, status="failed"),
        ],
    )
    out = tmp_path / "features.csv"
    result = CliRunner().invoke(app, ["slide-features", str(run), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "c (failed, no-cells)" in result.output
    with out.open(newline="") as file, (tmp_path / "features.n.csv").open(newline="") as other:
        rows, numbers = list(csv.DictReader(file)), list(csv.DictReader(other))
    assert [r["subject_id"] for r in rows] == ["'=1+2", "Y"]
    assert float(rows[0]["answered.blast"]) == pytest.approx(8 / BLOOD)
    assert numbers[0]["answered.blast"] == str(BLOOD)
    assert rows[1]["morphology.immature.area_um2.q50"] == ""
    assert not any(name.startswith("embedding.") for name in rows[0])
    wide = CliRunner().invoke(app, ["slide-features", str(run), "--out", str(out), "--embedding", "--level", "slide"])
    assert wide.exit_code == 0, wide.output
    assert f"embedding.all.mean.{DIM - 1:03d}" in out.read_text().splitlines()[0]
    bad = CliRunner().invoke(app, ["slide-features", str(run), "--out", str(out), "--level", "cell"])
    assert "give patient or slide" in str(bad.exception)


def test_the_page_is_current() -> None:
    message = "run python -m wsi_pipeline.predictions.slide_features.document > docs/slide-features.md"
    path = Path(__file__).parents[3] / "docs" / "slide-features.md"
    assert path.read_text(encoding="utf-8") == page(), message


@given(st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=40))
def test_quantiles_are_those_of_numpy_to_the_last_bit(drawn: list[float]) -> None:
    assert quantiles(np.array(drawn), QUANTILES) == np.quantile(np.array(drawn), QUANTILES).tolist()
