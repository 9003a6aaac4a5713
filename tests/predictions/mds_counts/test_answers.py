"""A patient's answer, and every reason for none."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import numpy.typing as npt
import pytest

from tests.predictions.mds_counts.trees import document
from wsi_pipeline.predictions.counts.analytes import load_analytes
from wsi_pipeline.predictions.counts.reading import read_values
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.predictions.mds_counts import PANEL, MdsAnswer, MdsTree, answer_patients, answers_csv
from wsi_pipeline.predictions.mds_counts.answers import FEMALE, HAEMOGLOBIN, NEUTROPHILS, PLATELETS, SEX

TREE = MdsTree.model_validate(document())
SIMULATED = MdsTree.model_validate(document(simulated=True))
ANAEMIC = {"Ne-WX": 340.0, "IPF": 9.0, "MCV": 95.0, "Hb": 9.0, "ANC": 4.0, "PLT": 200.0}


def values(**changes: float) -> npt.NDArray[np.float64]:
    row = ANAEMIC | {"sex": 0.0} | changes
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
    assert answer(**{"Ne-WX": 300.0}).predicted == "other"


def test_no_model_and_a_simulated_one_abstain() -> None:
    for found in (answer(None), answer(SIMULATED)):
        assert (found.reason, found.predicted, found.probability, found.possible) == (
            "no-real-training-data", "", None, None,
        )  # fmt: skip
    assert answer(None, allow=True).reason == "no-real-training-data"


def test_a_simulated_model_says_so_in_every_row() -> None:
    table = np.concatenate([values(), values(**{"Ne-WX": math.nan}), values(Hb=15.0)])
    answers = answer_patients(SIMULATED, ["a", "b", "c"], table, allow_simulated=True)
    assert [one.reason for one in answers] == ["", "missing-values", "not-applicable"]
    rows = list(csv.DictReader(io.StringIO(answers_csv(answers, SIMULATED, model="tree.json"))))
    assert [row["simulated"] for row in rows] == ["simulated"] * 3
    assert all("simulated" in row["cautions"] for row in rows)
    refused = answer_patients(SIMULATED, ["a"], values())
    assert next(csv.DictReader(io.StringIO(answers_csv(refused, SIMULATED, model="m"))))["simulated"] == "simulated"


def test_a_missing_value_that_decides_leaves_no_answer() -> None:
    found = answer(**{"Ne-WX": math.nan})
    assert (found.reason, found.predicted, found.missing) == ("missing-values", "", ("Ne-WX",))
    assert found.possible == (1 / 54, 24 / 25)


def test_a_missing_value_that_does_not_decide_is_shown_and_answered() -> None:
    found = answer(**{"Ne-WX": 330.0}, IPF=math.nan)
    # Both leaves under Ne-WX > 320.5 are above the cut of 0.32.
    assert (found.reason, found.predicted, found.missing) == ("", "MDS", ("IPF",))
    assert found.possible == (4 / 11, 24 / 25)
    assert answer(PLT=math.nan).missing == ()  # never asked for
    assert answer(MCV=math.nan).missing == ()  # asked for on the other side only


@pytest.mark.parametrize(
    ("changes", "applicable"),
    [
        ({"Hb": 13.0}, False),
        ({"Hb": 12.9}, True),
        ({"Hb": 12.9, "sex": FEMALE}, False),
        ({"Hb": 12.0, "sex": FEMALE}, False),
        ({"Hb": 11.9, "sex": FEMALE}, True),
        ({"Hb": 12.5, "sex": math.nan}, True),
        ({"Hb": 14.0, "ANC": 1.79}, True),
        ({"Hb": 14.0, "PLT": 149.0}, True),
        ({"Hb": 14.0, "ANC": math.nan}, True),
        ({"Hb": math.nan}, True),
    ],
)
def test_without_cytopenia_the_question_does_not_apply(changes: dict[str, float], applicable: bool) -> None:
    assert (answer(**changes).reason != "not-applicable") == applicable


def test_names_and_codes_are_those_of_the_panel() -> None:
    analytes = {analyte.name: analyte for analyte in load_analytes(PANEL)}
    assert {HAEMOGLOBIN, NEUTROPHILS, PLATELETS, SEX} <= set(analytes)
    assert (analytes[HAEMOGLOBIN].unit, analytes[NEUTROPHILS].unit, analytes[PLATELETS].unit) == ("g/dL", "G/L", "G/L")
    assert read_values({"sex": "female", "Hb": "9"}, analytes=tuple(analytes.values())).values[0].tolist()[-1] == FEMALE


def test_values_outside_the_training_patients_are_remarked() -> None:
    assert answer(**{"Ne-WX": 520.0}).cautions == ("Ne-WX 520 outside the training patients' 250 to 400",)
    assert answer(ANC=60.0).cautions == ()  # not asked for


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
