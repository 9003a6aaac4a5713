"""The tree's making: against scikit-learn, against the rules by hand, and on what may not be learnt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.inspection import permutation_importance
from sklearn.tree import DecisionTreeClassifier

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.counts.analytes import load_analytes
from wsi_pipeline.training.mds_counts import forest as mds_counts_forest
from wsi_pipeline.training.mds_counts.assessment import assess_tree, operating_point, telling_gaps
from wsi_pipeline.training.mds_counts.forest import assess_forest, forest, permutation_drops
from wsi_pipeline.training.mds_counts.rows import LabelledRows, labelled_rows
from wsi_pipeline.training.mds_counts.train import patient_folds
from wsi_pipeline.training.mds_counts.tree import fewest_decimals, filled, grow, medians, prune, to_tree

ANALYTES = load_analytes("mds-cbc")[:4]


@pytest.fixture(scope="module", autouse=True)
def _small_forest() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mds_counts_forest, "TREES", 60)
        yield


def rows_of(
    values: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_], patients: list[str] | None = None, **changes: Any
) -> LabelledRows:
    return labelled_rows(
        patients or [f"p{i}" for i in range(len(values))],
        values,
        ["MDS" if yes else "no" for yes in positive],
        ANALYTES,
        **{"positive": "MDS", "simulated": False, "source": "table.csv", "least_patients": 1} | changes,
    )


def some_rows(n: int = 200, *, seed: int = 0, effect: float = 1.5, missing: float = 0.0) -> LabelledRows:
    """Return rows whose first and third value differ between the labels, with two decimals."""
    random = np.random.default_rng(seed)
    positive = random.permutation(np.arange(n) < round(0.35 * n))
    values = random.normal(100, 10, (n, 4))
    values[:, 0] += 10 * effect * positive
    values[:, 2] -= 5 * effect * positive
    values[random.random((n, 4)) < missing] = np.nan
    return rows_of(values.round(2), positive)


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.05, np.inf])
def test_our_tree_answers_as_scikit_learn(missing: float, alpha: float) -> None:
    rows = some_rows(missing=missing)
    classifier = grow(rows, alpha)
    tree = to_tree(classifier, rows, trained_on="x")
    theirs = filled(rows.values, medians(rows.values))
    probability = classifier.predict_proba(theirs)[:, 1]
    share = tree.shares[tree.leaves(rows.values)]
    # scikit-learn's share is of labels that weigh alike; ours of patients as they are.
    odds = share / (1 - share + 1e-300) / (tree.cut / (1 - tree.cut))
    np.testing.assert_allclose(odds / (1 + odds), probability, atol=1e-9)
    np.testing.assert_array_equal(share > tree.cut + 1e-12, classifier.predict(theirs))
    assert len(tree.nodes) == classifier.tree_.node_count
    assert int(tree.is_leaf.sum()) == classifier.get_n_leaves()
    if alpha == np.inf:
        assert len(tree.nodes) == 1


def test_unseen_values_go_scikit_learns_way_but_in_the_gap_of_a_threshold() -> None:
    rows = some_rows(missing=0.1)
    classifier = grow(rows, 0.01)
    tree = to_tree(classifier, rows, trained_on="x")
    fresh = np.random.default_rng(9).normal(100, 15, (3000, 4))
    fresh[::5, 1] = np.nan
    mine = tree.shares[tree.leaves(fresh)]
    odds = mine / (1 - mine + 1e-300) / (tree.cut / (1 - tree.cut))
    same = np.isclose(odds / (1 + odds), classifier.predict_proba(filled(fresh, medians(rows.values)))[:, 1])
    # Theirs is the middle of the gap, ours a rounder number within it: only values between the two differ.
    theirs = {(int(f), float(t)) for f, t in zip(classifier.tree_.feature, classifier.tree_.threshold, strict=True)}
    ours = [(tree.names.index(n.split.analyte), n.split.threshold) for n in tree.nodes if n.split]
    between = np.zeros(len(fresh), dtype=bool)
    for column, threshold in ours:
        other = min((t for f, t in theirs if f == column), key=lambda t: abs(t - threshold))
        low, high = sorted((other, threshold))
        between |= (fresh[:, column] >= low) & (fresh[:, column] <= high)
    assert (same | between).all()
    assert same.mean() > 0.97


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_a_threshold_of_fewest_decimals_parts_the_same(low: float, gap: float) -> None:
    high = low + gap
    if not low < high:
        return
    found = fewest_decimals(low, high)
    assert low <= found < high


def test_thresholds_are_short() -> None:
    assert fewest_decimals(93.2, 93.8) == 93.5
    assert fewest_decimals(1.2, 9.8) == 6
    assert fewest_decimals(0.0, 1.0) == 0
    assert fewest_decimals(2.0, 3.0) == 2
    assert fewest_decimals(0.04, 0.05) == 0.04


def test_the_missing_side_is_that_of_most_training_patients() -> None:
    rows = some_rows(missing=0.3)
    tree = to_tree(grow(rows, 0.0), rows, trained_on="x")
    assert len(tree.nodes) > 5
    for node in tree.nodes:
        if node.split:
            column = rows.values[:, tree.names.index(node.split.analyte)]
            known = column[~np.isnan(column)]
            side = "below" if np.median(known) <= node.split.threshold else "above"
            assert node.split.missing == side


def test_gaps_that_tell_the_label_are_found() -> None:
    # Measured in all positive patients and ten others.
    random = np.random.default_rng(3)
    positive = np.arange(200) < 100
    values = random.normal(100, 10, (200, 4)).round(1)
    values[110:, 1] = np.nan
    rows = rows_of(values, positive)
    assert [gap["analyte"] for gap in telling_gaps(rows)] == [ANALYTES[1].name]
    assert telling_gaps(some_rows(missing=0.3)) == []


def test_each_patient_and_each_label_weigh_alike() -> None:
    values = np.random.default_rng(0).normal(size=(7, 4))
    positive = np.array([True, True, True, False, False, False, False])
    rows = rows_of(values, positive, ["a", "a", "b", "c", "c", "c", "d"])
    np.testing.assert_allclose(rows.weights, 3.5 * np.array([1 / 4, 1 / 4, 1 / 2, 1 / 6, 1 / 6, 1 / 6, 1 / 2]))
    assert rows.counts == (2, 4)
    assert rows.first.tolist() == [0, 2, 3, 6]


def test_copies_of_a_patient_do_not_change_the_tree() -> None:
    rows = some_rows(120)
    copies = np.concatenate([np.arange(120), np.zeros(30, dtype=int), np.full(30, 5)])
    again = rows_of(rows.values[copies], rows.positive[copies], [f"p{i}" for i in copies])
    one, two = (grow(r, 0.02) for r in (rows, again))
    # The least rows of a leaf are counted as rows, so only the questions near the root are the same for sure.
    assert one.tree_.feature[0] == two.tree_.feature[0]
    assert one.tree_.threshold[0] == two.tree_.threshold[0]
    tree = to_tree(two, again, trained_on="x")
    assert tree.nodes[0].patients == 120
    assert tree.cut == rows.cut


def test_folds_keep_patients_whole_and_have_both_labels() -> None:
    rows = some_rows(60)
    owner = np.random.default_rng(1).integers(0, 25, 60)
    label = np.arange(25) % 3 == 0
    grouped = rows_of(rows.values, label[owner], [f"p{i}" for i in owner])
    held = []
    for train, test in patient_folds(grouped, 4, seed=7):
        assert not set(grouped.patients[train]) & set(grouped.patients[test])
        assert set(grouped.positive[test]) == {True, False}
        held += test.tolist()
    assert sorted(held) == list(range(60))


def test_pruning_is_the_one_standard_error_rule() -> None:
    rows = some_rows(150)
    repeats = [patient_folds(rows, 5, seed=s) for s in (1, 2)]
    found = prune(rows, repeats)
    assert list(found.alphas) == sorted(found.alphas)
    # The error of each alpha, by scikit-learn and by hand.
    for i in (0, len(found.alphas) // 2, len(found.alphas) - 2):
        wrong = {True: 0, False: 0}
        for folds in repeats:
            for train, test in folds:
                y = rows.positive[train]
                weight = np.where(y, 1 / y.sum(), 1 / (~y).sum()) * len(y) / 2
                model = DecisionTreeClassifier(min_samples_leaf=7, ccp_alpha=found.alphas[i], random_state=0)
                model.fit(rows.values[train], y, sample_weight=weight)
                missed = (model.predict_proba(rows.values[test])[:, 1] > 0.5 + 1e-9) != rows.positive[test]
                for label in wrong:
                    wrong[label] += int(missed[rows.positive[test] == label].sum())
        rates = [wrong[label] / (2 * (rows.positive == label).sum()) for label in wrong]
        assert found.errors[i] == pytest.approx(np.mean(rates))
    assert found.errors[-1] == 0.5  # the root alone
    limit = min(found.errors) + found.standard_error
    assert found.errors[found.chosen] <= limit
    assert all(error > limit for error in found.errors[found.chosen + 1 :])


def test_shuffled_labels_teach_nothing() -> None:
    rows = some_rows(160)
    shuffled = rows_of(rows.values, np.random.default_rng(5).permutation(rows.positive))
    held = assess_tree(
        shuffled,
        patient_folds(shuffled, 4, seed=1),
        lambda part, k: [patient_folds(part, 4, seed=k)],
        report=lambda _: None,
    )
    point = operating_point(held.called, shuffled.positive)
    youden = sum((point[k]["value"] or 0.0) for k in ("sensitivity", "specificity")) - 1
    assert youden < 0.25


def test_held_out_answers_come_from_trees_that_did_not_see_the_patient() -> None:
    # Each patient has two rows; the label is noise, but rows of a patient are the same.
    random = np.random.default_rng(2)
    values = np.repeat(random.normal(100, 10, (60, 4)), 8, axis=0)
    positive = np.repeat(random.permutation(np.arange(60) < 30), 8)
    rows = rows_of(values, positive, [f"p{i}" for i in np.repeat(np.arange(60), 8)])
    held = assess_tree(
        rows, patient_folds(rows, 4, seed=1), lambda part, k: [patient_folds(part, 4, seed=k)], report=lambda _: None
    )
    # A tree that saw the patient answers right nearly always.
    tree = to_tree(grow(rows, 0.0), rows, trained_on="x")
    seen = (tree.shares[tree.leaves(values)] > tree.cut) == positive
    assert seen.mean() > 0.95
    assert ((held.share > 0.5) == positive)[rows.first].mean() < 0.75


def test_the_forest_finds_the_values_that_matter() -> None:
    rows = some_rows(240)
    probability, importance = assess_forest(rows, patient_folds(rows, 3, seed=0), seed=0)
    assert [one.analyte for one in importance[:2]] == [ANALYTES[0].name, ANALYTES[2].name]
    assert sum(one.impurity_percent for one in importance) == pytest.approx(100)
    assert all(abs(one.auc_drop) < 0.03 for one in importance[2:])
    assert importance[0].auc_drop > 0.1
    assert not np.isnan(probability).any()


def test_importance_is_scikit_learns_but_for_the_shuffles() -> None:
    rows = some_rows(300)
    model = forest(rows, seed=1)
    fresh = some_rows(150, seed=1)
    theirs = permutation_importance(
        model, fresh.values, fresh.positive, scoring="roc_auc", n_repeats=5, random_state=0
    ).importances_mean
    np.testing.assert_allclose(permutation_drops(model, fresh.values, fresh.positive, seed=0), theirs, atol=0.03)


def test_operating_point_counts_the_answered_only() -> None:
    called = np.array([1, 1, 0, -1, 0, 0, 1, -1, -1])
    positive = np.array([True] * 4 + [False] * 5)
    found = operating_point(called, positive)
    assert (found["sensitivity"]["k"], found["sensitivity"]["n"], found["sensitivity"]["unanswered"]) == (2, 3, 1)
    assert (found["specificity"]["k"], found["specificity"]["n"], found["specificity"]["unanswered"]) == (2, 3, 2)
    assert operating_point(np.full(2, -1), np.array([True, False]))["sensitivity"]["value"] is None


@pytest.mark.parametrize(
    ("labels", "patients", "message"),
    [
        ([], [], "no rows"),
        (["MDS", "MDS"], ["a", "b"], "one class only"),
        (["no", "other"], ["a", "b"], "no row has the label 'MDS'; found no, other"),
        (["MDS", " "], ["a", "b"], "1 rows have no label \\(b\\)"),
        (["MDS", "no", "no"], ["a", "a", "b"], "both labels \\(a\\)"),
        (["MDS", "no", "no"], ["a", "b", "c"], "1 patients have MDS; at least 2"),
    ],
)
def test_rows_that_cannot_be_learnt_from_are_refused(labels: list[str], patients: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        labelled_rows(
            patients, np.ones((len(labels), 4)), labels, ANALYTES, positive="MDS", simulated=False, source="t.csv",
            least_patients=2,
        )  # fmt: skip


def test_an_analyte_that_few_have_is_left_out_and_named() -> None:
    rows = some_rows(40)
    values = rows.values.copy()
    values[:25, 1] = np.nan
    found = rows_of(values, rows.positive)
    assert found.left_out == (ANALYTES[1].short["en"],)
    assert [a.name for a in found.analytes] == [ANALYTES[i].name for i in (0, 2, 3)]
    with pytest.raises(DataError, match="no analyte"):
        rows_of(np.full((40, 4), np.nan), rows.positive)


def test_labels_are_compared_without_case_and_the_other_is_named() -> None:
    rows = labelled_rows(
        ["a", "b", "c"], np.ones((3, 4)), ["mds ", "MDS", "Anaemia"], ANALYTES, positive="MDS", simulated=False,
        source="t", least_patients=1,
    )  # fmt: skip
    assert rows.positive.tolist() == [True, True, False]
    assert (rows.positive_name, rows.negative_name) == ("MDS", "Anaemia")
