"""Correction by the confusion matrix: exact cases, properties, and how often the interval covers the truth."""

from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsi_pipeline.config import PredictionsConfig
from wsi_pipeline.errors import ConfigError, DataError, ModelError
from wsi_pipeline.predictions import CORRECTED_COLUMNS, corrected_differential, criteria_predictions, differential
from wsi_pipeline.predictions.corrected import not_told_apart
from wsi_pipeline.predictions.correction import ConfusionTable, correct_proportions, maximum_likelihood
from wsi_pipeline.taxonomies import load_taxonomy
from wsi_pipeline.weights import find_weights

TAXONOMY = load_taxonomy("pbc-blast")
CARD = find_weights("pbc-blast", "cells").card
CONFIG = PredictionsConfig()
CODES = "abcdef"


def table(*rows: list[int]) -> ConfusionTable:
    return ConfusionTable(classes=tuple(CODES[: len(rows)]), counts=tuple(tuple(row) for row in rows))


# The estimate --------------------------------------------------------------------------------------------------------


def test_two_classes_are_the_estimator_of_rogan_and_gladen() -> None:
    result = correct_proportions({"a": 300, "b": 700}, table([90, 10], [20, 80]), draws=10)
    assert result.estimate[0] == pytest.approx((0.3 - 0.2) / (0.9 - 0.2), abs=1e-4)


def test_three_classes_are_the_linear_solution_where_it_is_possible() -> None:
    c = table([80, 15, 5], [10, 85, 5], [0, 10, 90])
    rates = np.array(c.counts) / 100
    p = np.array([0.5, 0.3, 0.2])
    answered = dict(zip("abc", (int(v) for v in np.rint(10_000 * p @ rates)), strict=True))
    np.testing.assert_allclose(correct_proportions(answered, c, draws=10).estimate, p, atol=1e-3)


def test_fewer_answers_than_errors_alone_would_make_is_none() -> None:
    value, lower, upper = correct_proportions({"a": 10, "b": 990}, table([90, 10], [20, 80])).share("a", "ab", 0.95)
    assert (value, lower) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6))
    assert upper < 0.1


def test_no_share_is_known_better_than_from_cells_without_errors() -> None:
    """One answer where the classifier's errors alone make 20: the point 0 would be too sure."""
    result = correct_proportions({"a": 1, "b": 342}, table([90, 10], [20, 300]))
    value, lower, upper = result.share("a", "ab", 0.95)
    assert (value, lower) == (0, 0)
    assert upper == pytest.approx(1 - 0.025 ** (1 / 343), rel=1e-3)
    assert result.share("b", "ab", 0.95) == pytest.approx((1, 1 - upper, 1))
    assert result.share("ab", "ab", 0.95) == (1, 1, 1)


def test_a_classifier_without_errors_changes_nothing_but_the_interval() -> None:
    answered = {"a": 20, "b": 30, "c": 50}
    result = correct_proportions(answered, table([4000, 0, 0], [0, 4000, 0], [0, 0, 4000]))
    np.testing.assert_allclose(result.estimate, [0.2, 0.3, 0.5], atol=1e-6)
    _, lower, upper = result.share("b", "abc", 0.95)
    assert lower == pytest.approx(0.22, abs=0.02)
    assert upper == pytest.approx(0.39, abs=0.02)


def test_fewer_images_make_a_wider_interval() -> None:
    answered = {"a": 400, "b": 600}
    few, many = (
        correct_proportions(answered, table([9 * n, n], [2 * n, 8 * n])).share("a", "ab", 0.95) for n in (3, 300)
    )
    assert few[2] - few[1] > 2 * (many[2] - many[1])
    assert many[2] - many[1] > 0.06  # the counting error alone stays


def test_classes_taken_for_each_other_are_known_together() -> None:
    result = correct_proportions({"a": 250, "b": 250, "c": 500}, table([60, 40, 0], [40, 60, 0], [0, 0, 100]))
    _, low_a, high_a = result.share("a", "abc", 0.95)
    _, low, high = result.share("ab", "abc", 0.95)
    assert high - low < 0.15 < high_a - low_a


def test_em_reaches_the_maximum() -> None:
    """Against a general optimiser, on problems whose solutions lie inside and on the edge."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    rates = rng.dirichlet(np.ones(4), size=(20, 4)) * 0.4 + 0.6 * np.eye(4)
    q = rng.dirichlet(np.full(4, 0.7), size=20)
    found = maximum_likelihood(q.T, rates.transpose(1, 2, 0))
    for i in range(20):

        def loss(x: np.ndarray, i: int = i) -> float:
            p = np.exp(x - x.max())
            return -float(q[i] @ np.log(p / p.sum() @ rates[i]))

        best = minimize(loss, np.zeros(4), method="BFGS").fun
        assert -float(q[i] @ np.log(found[:, i] @ rates[i])) <= best + 1e-6


# Properties ----------------------------------------------------------------------------------------------------------


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[int], list[list[int]]]:
    n = draw(st.integers(2, 5))
    answered = draw(st.lists(st.integers(0, 500), min_size=n, max_size=n).filter(any))
    row = st.lists(st.integers(0, 200), min_size=n, max_size=n).filter(any)
    return answered, draw(st.lists(row, min_size=n, max_size=n))


@settings(deadline=None, max_examples=40)
@example(problem=([1, 0], [[0, 1], [0, 1]]), random=Random(0))  # an answer that no image ever got
@given(problem=problems(), random=st.randoms(use_true_random=False))
def test_proportions_are_proportions_whatever_the_order(problem: tuple[list[int], list[list[int]]], random) -> None:  # type: ignore[no-untyped-def]
    answered, rows = problem
    c = table(*rows)
    k = dict(zip(c.classes, answered, strict=True))
    result = correct_proportions(k, c, draws=50)
    for part in (result.estimate[:, None], result.draws):
        assert np.isfinite(part).all()
        assert (part >= 0).all()
        np.testing.assert_allclose(part.sum(axis=0), 1, atol=1e-9)
    order = list(range(len(rows)))
    random.shuffle(order)
    turned = ConfusionTable(
        classes=tuple(c.classes[i] for i in order), counts=tuple(tuple(rows[i][j] for j in order) for i in order)
    )
    again = correct_proportions(k, turned, draws=50)
    assert (again.draws == result.draws[order]).all()
    assert (again.estimate == result.estimate[order]).all()
    value, lower, upper = result.share(c.classes[:1], c.classes, 0.9)
    assert 0 <= lower <= value <= upper <= 1


def test_the_same_counts_give_the_same_bits() -> None:
    c = ConfusionTable.from_card(CARD, "blood_smear")
    assert c is not None
    a, b = (correct_proportions({"lymphocyte": 300, "monocyte": 60}, c) for _ in range(2))
    assert a.draws.tobytes() == b.draws.tobytes()


# Coverage ------------------------------------------------------------------------------------------------------------


def test_the_interval_covers_the_truth_of_200_counts() -> None:
    """1,000 white cells each; the shipped errors are the true ones, and every count has its own calibration images.

    Not checked: a classifier that errs on the slide otherwise than on its images. More counts, seeds and
    compositions: ``benchmarks/correction.py``. A quarter of the usual draws, for speed; by chance alone, 200 counts
    lie within a point or two of the coverage of many.
    """
    c = ConfusionTable.from_card(CARD, "blood_smear")
    assert c is not None
    counts = np.array(c.counts)
    rates = counts / counts.sum(axis=1, keepdims=True)
    mixes = [
        {"segmented_neutrophil": 57, "band_neutrophil": 3, "lymphocyte": 30, "monocyte": 6, "eosinophil": 3,
         "basophil": 1},
        {"segmented_neutrophil": 58, "band_neutrophil": 17, "metamyelocyte": 5, "myelocyte": 3, "lymphocyte": 10,
         "monocyte": 6, "eosinophil": 1},
        {"blast": 35, "lymphocyte": 20, "segmented_neutrophil": 30, "monocyte": 10, "erythroblast": 5},
        {"segmented_neutrophil": 45, "eosinophil": 15, "basophil": 6, "lymphocyte": 25, "monocyte": 9, "artefact": 5},
    ]  # fmt: skip
    inside = [code for code in TAXONOMY.countable("blood_smear") if code in c.classes]
    is_inside = np.isin(c.classes, inside)
    rng = np.random.default_rng(7)
    covered, together = [], []
    for i in range(200):
        p = np.array([mixes[i % 4].get(code, 0) for code in c.classes], float)
        p /= p[is_inside].sum()
        k = rng.multinomial(round(1000 * p.sum()), p / p.sum() @ rates)
        own = tuple(tuple(int(v) for v in rng.multinomial(counts[r].sum(), rates[r])) for r in range(len(counts)))
        result = correct_proportions(
            dict(zip(c.classes, (int(v) for v in k), strict=True)),
            ConfusionTable(classes=c.classes, counts=own),
            draws=500,
        )
        for code, true in zip(c.classes, p, strict=True):
            if code in inside and true >= 0.05:
                _, lower, upper = result.share([code], inside, 0.95)
                covered.append(lower <= true <= upper)
        neutrophils = TAXONOMY.roll_ups["neutrophils"]
        value, lower, upper = result.share(neutrophils, inside, 0.95)
        true = sum(p[c.classes.index(code)] for code in neutrophils)
        together.append((lower <= true <= upper, abs(value - true)))
    assert len(covered) > 700
    assert 0.93 <= np.mean(covered) <= 0.97
    assert 0.91 <= np.mean([inside for inside, _ in together]) <= 0.99
    assert np.mean([error for _, error in together]) < 0.02


# Tables --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "counts", "message"),
    [
        (("a", "a"), ((1, 0), (0, 1)), "distinct"),
        ((), (), "distinct"),
        (("a", "b"), ((1, 0),), "2 rows of 2"),
        (("a", "b"), ((1, -1), (0, 1)), "negative"),
    ],
)
def test_a_table_is_checked(classes: tuple[str, ...], counts: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ConfusionTable(classes=classes, counts=counts)


def test_what_cannot_be_corrected_is_said() -> None:
    c = table([9, 1], [0, 0])
    with pytest.raises(DataError, match="no image of b"):
        correct_proportions({"a": 1}, c)
    c = table([9, 1], [1, 9])
    with pytest.raises(DataError, match="answers z"):
        correct_proportions({"z": 1}, c)
    with pytest.raises(DataError, match="negative"):
        correct_proportions({"a": -1, "b": 2}, c)
    with pytest.raises(DataError, match="no cell"):
        correct_proportions({}, c)


def test_a_damaged_card_is_an_error() -> None:
    entry = CARD["confusion"]["specimens"]["blood_smear"]
    for damage in ({"counts": [[1]]}, {"counts": "x"}, {"classes": None}):
        card = {**CARD, "confusion": {"specimens": {"blood_smear": {**entry, **damage}}}}
        with pytest.raises(ModelError, match="cannot be read"):
            ConfusionTable.from_card(card, "blood_smear")
    with pytest.raises(ModelError, match="other classes"):
        ConfusionTable.from_card({**CARD, "classes": ["blast"]}, "blood_smear")


def test_the_shipped_card_says_what_it_was_measured_on() -> None:
    for specimen in CARD["specimens"]:
        entry = CARD["confusion"]["specimens"][specimen]
        assert entry["classes"] == CARD["classes"]
        assert "simulator" in entry["images"]
        assert min(map(sum, entry["counts"])) >= 40
        assert all(sources for sources in entry["sources"].values())
    blood, marrow = (CARD["confusion"]["specimens"][s]["sources"] for s in ("blood_smear", "marrow_smear"))
    assert blood["blast"] == marrow["blast"] == marrow["monocyte"] == ["marrow-cells"]
    assert blood["monocyte"] == marrow["basophil"] == ["pbc"]


# The differential ----------------------------------------------------------------------------------------------------

ANSWERED = {"segmented_neutrophil": 420, "band_neutrophil": 190, "lymphocyte": 300, "monocyte": 60, "erythroblast": 40,
            "artefact": 25, "platelet": 9}  # fmt: skip


def corrected(answered: dict[str, int], **changes: object):  # type: ignore[no-untyped-def]
    arguments: dict = {"card": CARD, "specimen": "blood_smear", "taxonomy": TAXONOMY, "config": CONFIG}
    arguments.update(changes)
    raw = differential(answered, specimen=arguments["specimen"], taxonomy=arguments["taxonomy"])
    return corrected_differential(answered, raw, **arguments)


def test_percentages_are_of_the_denominator() -> None:
    result = corrected(ANSWERED)
    classes = {row.name: row for row in result.rows if row.level != "group"}
    groups = {row.name: row for row in result.rows if row.level == "group"}
    outside = ("erythroblast", "platelet", "artefact", "band_neutrophil", "segmented_neutrophil")
    assert list(classes) == ["neutrophils", *(c for c in TAXONOMY.classifier_classes if c not in outside)]
    assert sum(row.percent for row in classes.values()) == pytest.approx(100)
    assert set(groups) == {"granulocyte_precursors", "granulocytic"}
    assert groups["granulocytic"].percent == pytest.approx(
        sum(
            classes[c].percent
            for c in ("neutrophils", *groups["granulocyte_precursors"].members, "eosinophil", "basophil")
        )
    )
    assert all(row.lower <= row.percent <= row.upper for row in result.rows)
    assert (result.n, result.n_answered) == (970, 1044)
    marrow = corrected(ANSWERED, specimen="marrow_smear")
    assert "erythroblast" in {row.name for row in marrow.rows}


def test_the_summary_is_json_and_says_what_it_presumes() -> None:
    data = json.loads(json.dumps(corrected(ANSWERED).to_dict(), allow_nan=False))
    assert data["interval"] == "sampling + classification"
    assert "errs on this slide as it did on its test images" in data["assumption"]
    assert data["calibration"]["n"] == sum(data["calibration"]["per_class"].values()) > 1000
    assert set(data["rows"][0]) == {*CORRECTED_COLUMNS[1:], "members"}


def test_classes_taken_for_each_other_are_given_as_one() -> None:
    """By the card a third of band and of segmented neutrophils are answered as the other."""
    (row,) = [row for row in corrected(ANSWERED).rows if row.level == "merged"]
    assert (row.name, row.members) == ("neutrophils", ("band_neutrophil", "segmented_neutrophil"))
    table = ConfusionTable(
        classes=("a", "b", "c", "d"),
        counts=((70, 30, 0, 0), (25, 50, 25, 0), (0, 25, 75, 0), (40, 0, 0, 60)),
    )
    # d is taken for a, but a never for d; a and c are joined by b.
    assert not_told_apart(table, ("d", "c", "b", "a")) == [("c", "b", "a")]
    assert not_told_apart(table, ("a", "c", "d")) == []
    entry = CARD["confusion"]["specimens"]["blood_smear"]
    counts = [list(map(int, row)) for row in entry["counts"]]
    names = entry["classes"]
    for one, other in (("lymphocyte", "monocyte"), ("monocyte", "lymphocyte")):
        counts[names.index(one)][names.index(other)] += 100
    card = {**CARD, "confusion": {"specimens": {"blood_smear": {**entry, "counts": counts}}}}
    merged = [row.name for row in corrected(ANSWERED, card=card).rows if row.level == "merged"]
    assert merged == ["neutrophils", "lymphocyte + monocyte"]


@pytest.mark.parametrize(
    ("answered", "changes", "reason"),
    [
        ({"lymphocyte": 99}, {}, "too-few-cells"),
        ({}, {}, "too-few-cells"),
        (ANSWERED, {"card": None}, "not-classified"),
        (ANSWERED, {"card": {"name": "old", "classes": CARD["classes"]}}, "no-confusion-in-card"),
        (
            {"nucleus": 500},
            {"specimen": "trephine", "taxonomy": load_taxonomy("section"), "card": None},
            "no-differential",
        ),
    ],
)
def test_no_correction_has_a_reason(answered: dict[str, int], changes: dict[str, object], reason: str) -> None:
    result = corrected(answered, **changes)
    assert (result.reason, result.rows) == (reason, ())
    assert result.wording
    assert json.loads(json.dumps(result.to_dict()))["reason"] == reason


def test_too_few_images_of_a_class_are_named() -> None:
    entry = CARD["confusion"]["specimens"]["blood_smear"]
    counts = [[v // 20 for v in row] for row in entry["counts"]]
    card = {**CARD, "confusion": {"specimens": {"blood_smear": {**entry, "counts": counts}}}}
    result = corrected(ANSWERED, card=card)
    assert result.reason == "too-few-calibration-images"
    assert "blast (1)" in result.wording


def test_a_differential_of_another_specimen_is_refused() -> None:
    raw = differential(ANSWERED, specimen="marrow_smear", taxonomy=TAXONOMY)
    with pytest.raises(ConfigError, match="correction was asked for blood_smear"):
        corrected_differential(ANSWERED, raw, card=CARD, specimen="blood_smear", taxonomy=TAXONOMY, config=CONFIG)


def test_answers_go_by_the_counts() -> None:
    raw = differential(ANSWERED, specimen="blood_smear", taxonomy=TAXONOMY)
    answers = criteria_predictions(
        raw, slide_id="s", subject_id="", specimen="blood_smear", taxonomy=TAXONOMY, config=CONFIG
    )
    aml = next(a for a in answers if a.task == "aml")
    assert aml.basis is not None
    assert (aml.basis.k, aml.basis.n) == (0, 970)
