"""A patient's answer, and every reason for none."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import numpy.typing as npt
import pytest

from tests.predictions.mds_counts.trees import document
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.predictions.mds_counts import MdsAnswer, MdsTree, answer_patients, answers_csv

TREE = MdsTree.model_validate(document())
SIMULATED = MdsTree.model_validate(document(simulated=True))
ANAEMIC = {"Ne_WX": 340.0, "IPF_percent": 9.0, "MCV_fL": 95.0, "Hb_g_dL": 9.0, "ANC_G_L": 4.0, "Platelets_G_L": 200.0}


def values(**changes: float) -> npt.NDArray[np.float64]:
    row = ANAEMIC | {"sex": 1.0} | changes
    return np.array([[row[name] for name in TREE.names]])


def answer(tree: MdsTree | None = TREE, *, allow: bool = False, **changes: float) -> MdsAnswer:
    return answer_patients(tree, ["p"], values(**changes), allow_simulated=allow)[0]


def test_an_answer_is_its_leaf() -> None:
    found = answer()
    assert (found.predicted, found.reason, found.missing, found.cautions) == ("MDS", "", (), ())
    assert found.probability == 24 / 25
    assert (found.lower, found.upper) == wilson(24, 25)
    assert found.possible == (24 / 25, 24 / 25)
    assert found.path == "Ne-WX > 320.5; IPF > 6 %"
    assert answer(Ne_WX=300.0).predicted == "other"


def test_no_model_and_a_simulated_one_abstain() -> None:
    for found in (answer(None), answer(SIMULATED)):
        assert (found.reason, found.predicted, found.probability, found.possible) == (
            "no-real-training-data", "", None, None,
        )  # fmt: skip
    assert answer(None, allow=True).reason == "no-real-training-data"


def test_a_simulated_model_says_so_in_every_row() -> None:
    table = np.concatenate([values(), values(Ne_WX=math.nan), values(Hb_g_dL=15.0)])
    answers = answer_patients(SIMULATED, ["a", "b", "c"], table, allow_simulated=True)
    assert [one.reason for one in answers] == ["", "missing-values", "not-applicable"]
    rows = list(csv.DictReader(io.StringIO(answers_csv(answers, SIMULATED, model="tree.json"))))
    assert [row["simulated"] for row in rows] == ["simulated"] * 3
    assert all("simulated" in row["cautions"] for row in rows)
    refused = answer_patients(SIMULATED, ["a"], values())
    assert next(csv.DictReader(io.StringIO(answers_csv(refused, SIMULATED, model="m"))))["simulated"] == "simulated"


def test_a_missing_value_that_decides_leaves_no_answer() -> None:
    found = answer(Ne_WX=math.nan)
    assert (found.reason, found.predicted, found.missing) == ("missing-values", "", ("Ne_WX",))
    assert found.possible == (1 / 54, 24 / 25)


def test_a_missing_value_that_does_not_decide_is_shown_and_answered() -> None:
    found = answer(Ne_WX=330.0, IPF_percent=math.nan)
    # Both leaves under Ne-WX > 320.5 are above the cut of 0.32.
    assert (found.reason, found.predicted, found.missing) == ("", "MDS", ("IPF_percent",))
    assert found.possible == (4 / 11, 24 / 25)
    assert answer(Platelets_G_L=math.nan).missing == ()  # never asked for
    assert answer(MCV_fL=math.nan).missing == ()  # asked for on the other side only


@pytest.mark.parametrize(
    ("changes", "applicable"),
    [
        ({"Hb_g_dL": 13.0}, False),
        ({"Hb_g_dL": 12.9}, True),
        ({"Hb_g_dL": 12.0, "sex": 0.0}, False),
        ({"Hb_g_dL": 11.9, "sex": 0.0}, True),
        ({"Hb_g_dL": 12.5, "sex": math.nan}, True),
        ({"Hb_g_dL": 14.0, "ANC_G_L": 1.79}, True),
        ({"Hb_g_dL": 14.0, "Platelets_G_L": 149.0}, True),
        ({"Hb_g_dL": 14.0, "ANC_G_L": math.nan}, True),
        ({"Hb_g_dL": math.nan}, True),
    ],
)
def test_without_cytopenia_the_question_does_not_apply(changes: dict[str, float], applicable: bool) -> None:
    assert (answer(**changes).reason != "not-applicable") == applicable


def test_values_outside_the_training_patients_are_remarked() -> None:
    assert answer(Ne_WX=520.0).cautions == ("Ne-WX 520 outside the training patients' 250 to 400",)
    assert answer(ANC_G_L=60.0).cautions == ()  # not asked for


def test_a_tree_without_questions_answers_nothing() -> None:
    bare = MdsTree.model_validate(document(nodes=[{"positives": 32, "patients": 100}]))
    assert answer(bare).reason == "no-split"


def test_csv_is_safe_in_a_spreadsheet_and_whole() -> None:
    names = ['=HYPERLINK("x")', "+1", "-1", "@x", 'a,"b"\nc', "é"]
    answers = answer_patients(TREE, names, np.repeat(values(), len(names), axis=0))
    rows = list(csv.DictReader(io.StringIO(answers_csv(answers, TREE, model="tree.json"))))
    assert [row["patient"] for row in rows] == ['\'=HYPERLINK("x")', "'+1", "'-1", "'@x", 'a,"b"\nc', "é"]
    assert {row["probability"] for row in rows} == {"0.9600"}
    assert {row["simulated"] for row in rows} == {""}
    assert {row["abstained"] for row in rows} == {"false"}
