"""What the criteria say, what they refuse to say, and that their answers never contradict each other."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.config import PredictionsConfig, Specimen
from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.predictions import PREDICTION_COLUMNS, Prediction, criteria_predictions, differential, wilson
from wsi_pipeline.predictions.criteria import SMEAR_CLASSES
from wsi_pipeline.predictions.ranges import adult_blood_ranges, blood_findings
from wsi_pipeline.taxonomies import Taxonomy, load_taxonomy

TAXONOMY = load_taxonomy("pbc-blast")
BLOOD = PredictionsConfig(min_cells=100, target_cells=200)
MARROW = PredictionsConfig(min_cells=200, target_cells=500)
HEALTHY = {
    "segmented_neutrophil": 570,
    "band_neutrophil": 20,
    "lymphocyte": 300,
    "monocyte": 70,
    "eosinophil": 30,
    "basophil": 10,
    "red_cell": 20_000,
    "platelet": 1500,
}
SPECIMENS: list[Specimen] = ["blood_smear", "marrow_smear"]


def ask(
    counts: dict[str, int], specimen: Specimen = "blood_smear", taxonomy: Taxonomy = TAXONOMY
) -> dict[str, Prediction]:
    result = differential(counts, specimen=specimen, taxonomy=taxonomy)
    answers = criteria_predictions(
        result,
        slide_id="s1",
        subject_id="p1",
        specimen=specimen,
        taxonomy=taxonomy,
        config=BLOOD if specimen == "blood_smear" else MARROW,
    )
    return {a.task: a for a in answers}


def with_blasts(percent: int, n: int = 1000) -> dict[str, int]:
    k = n * percent // 100
    return {"blast": k, "segmented_neutrophil": n - k}


def test_healthy_blood_is_within_adult_ranges() -> None:
    answers = ask(HEALTHY)
    diagnosis = answers["smear_diagnosis"]
    assert diagnosis.class_name == "normal"
    assert diagnosis.basis is not None
    assert diagnosis.basis.fraction == 1.0
    assert "within the adult ranges" in diagnosis.wording
    assert any("do not hold for a child" in note and "Davis" in note for note in diagnosis.notes)
    assert answers["aml"].class_name == "below_range"


@pytest.mark.parametrize("specimen", SPECIMENS)
def test_blasts_in_aml_range(specimen: Specimen) -> None:
    answers = ask(with_blasts(60), specimen)
    assert answers["aml"].class_name == answers["smear_diagnosis"].class_name == "aml_range"
    for task in ("aml", "smear_diagnosis"):
        assert answers[task].wording.startswith("blasts in AML range (20 % or more)")
        assert "lineage not determined by morphology alone" in answers[task].wording


def test_probability_is_the_fraction_of_blasts_with_its_wilson_interval() -> None:
    row = ask(with_blasts(60))["aml"].row()
    low, high = wilson(600, 1000)
    assert tuple(row) == PREDICTION_COLUMNS
    assert (row["probability"], row["lower"], row["upper"]) == (0.6, round(low, 4), round(high, 4))
    assert (row["model"], row["trained_on"], row["abstained"], row["n_cells"]) == (
        "criteria",
        "criteria",
        "false",
        1000,
    )


@pytest.mark.parametrize("specimen", SPECIMENS)
def test_ten_to_nineteen_percent(specimen: Specimen) -> None:
    answers = ask(with_blasts(13), specimen)
    assert "10-19 % (MDS-IB2 by WHO 2022, MDS/AML by ICC 2022)" in answers["smear_diagnosis"].wording
    assert answers["smear_diagnosis"].class_name == "mds_like|other_abnormal"
    assert answers["aml"].class_name == "below_range"


@pytest.mark.parametrize(
    ("specimen", "percent", "wording"),
    [
        ("blood_smear", 7, "blasts 5-9 % in blood (MDS-IB2 by WHO 2022, MDS-EB by ICC 2022"),
        ("blood_smear", 3, "blasts 2-4 % in blood (MDS-IB1 by WHO 2022, MDS-EB by ICC 2022"),
        ("blood_smear", 1, "blasts below 2 % in blood"),
        ("blood_smear", 2, "blasts 2-4 %"),
        ("blood_smear", 5, "blasts 5-9 %"),
        ("blood_smear", 10, "blasts 10-19 %"),
        ("blood_smear", 20, "blasts in AML range"),
        ("marrow_smear", 4, "blasts below 5 %"),
        ("marrow_smear", 5, "blasts 5-9 %"),
        ("marrow_smear", 10, "blasts 10-19 %"),
        ("marrow_smear", 19, "blasts 10-19 %"),
        ("marrow_smear", 20, "blasts in AML range"),
        ("marrow_smear", 7, "blasts 5-9 % in marrow (MDS-IB1 by WHO 2022, MDS-EB by ICC 2022"),
        ("marrow_smear", 3, "blasts below 5 % in marrow"),
    ],
)
def test_lower_ranges_differ_between_blood_and_marrow(specimen: Specimen, percent: int, wording: str) -> None:
    assert ask(with_blasts(percent), specimen)["aml"].wording.startswith(wording)


def test_an_interval_across_the_limit_gives_a_set_and_an_abstention() -> None:
    answers = ask(with_blasts(19, 200))
    assert answers["smear_diagnosis"].class_name == "aml_range|mds_like|other_abnormal"
    assert answers["aml"].abstained
    assert answers["aml"].reason == "interval-spans-20-percent"
    assert "count more cells" in answers["aml"].wording


def test_few_blasts_are_to_be_looked_at() -> None:
    assert "Look at each of them" in ask({**HEALTHY, "blast": 3})["aml"].wording
    assert "Look at each" not in ask(HEALTHY)["aml"].wording


@pytest.mark.parametrize(("specimen", "n"), [("blood_smear", 99), ("marrow_smear", 199)])
def test_too_few_cells(specimen: Specimen, n: int) -> None:
    answers = ask({"blast": n, "platelet": 900, "red_cell": 5000}, specimen)
    assert set(answers) == {"smear_diagnosis", "aml", "apl", "mds"}
    assert all(a.abstained and a.reason == "too-few-cells" and a.n_cells == n for a in answers.values())
    row = answers["aml"].row()
    assert (row["class"], row["probability"], row["lower"], row["upper"]) == ("", "", "", "")
    assert not ask({"blast": n + 1}, specimen)["aml"].abstained


def test_nucleated_red_cells_do_not_help_blood_over_the_minimum() -> None:
    counts = {"lymphocyte": 60, "erythroblast": 60}
    assert ask(counts)["aml"].reason == "too-few-cells"
    assert ask({"lymphocyte": 150, "erythroblast": 60}, "marrow_smear")["aml"].class_name == "below_range"


def test_below_target_is_marked() -> None:
    assert ask(with_blasts(60, 150))["aml"].reason == "few-cells"
    assert ask(with_blasts(60, 200))["aml"].reason == ""


def test_unclassified_cells_abstain_with_their_own_reason() -> None:
    assert {a.reason for a in ask({"white_cell": 500}).values()} == {"not-classified"}


def test_promyelocytes_are_not_apl_and_not_dismissed() -> None:
    counts = {"promyelocyte": 300, "blast": 10, "lymphocyte": 190}
    answers = ask(counts)
    assert answers["apl"].reason == "no-abnormal-promyelocyte-class"
    assert "not APL by itself" in answers["apl"].notes[0]
    # Abnormal promyelocytes count as blasts and cannot be told: "below 20 %" would be false comfort.
    assert answers["aml"].reason == "promyelocytes-may-be-blast-equivalents"
    assert "aml_range" in answers["smear_diagnosis"].class_name
    marrow = ask(counts, "marrow_smear")
    assert marrow["smear_diagnosis"].abstained


def test_a_few_promyelocytes_need_no_remark() -> None:
    answers = ask({"promyelocyte": 40, "blast": 10, "segmented_neutrophil": 500, "erythroblast": 250}, "marrow_smear")
    assert answers["apl"].notes == ()
    assert answers["aml"].class_name == "below_range"


def test_mds_is_never_called_from_counts() -> None:
    assert ask(with_blasts(13))["mds"].reason == "no-dysplasia-classes"


def test_marrow_is_never_compared_with_blood_ranges() -> None:
    # Erythroid hyperplasia and hardly a neutrophil: far outside the ranges of blood.
    diagnosis = ask({"erythroblast": 500, "lymphocyte": 450, "segmented_neutrophil": 50}, "marrow_smear")[
        "smear_diagnosis"
    ]
    assert diagnosis.class_name == "normal|mds_like|other_abnormal"
    assert "range" not in diagnosis.wording
    marrow = differential({"lymphocyte": 500}, specimen="marrow_smear", taxonomy=TAXONOMY)
    with pytest.raises(ConfigError, match="do not apply to marrow_smear"):
        blood_findings(marrow, TAXONOMY, 0.95)


def test_outside_the_ranges() -> None:
    certain = ask({"lymphocyte": 800, "segmented_neutrophil": 200})["smear_diagnosis"]
    assert certain.class_name == "other_abnormal"
    assert "above the adult range 12-44 %" in certain.wording
    borderline = ask({**HEALTHY, "lymphocyte": 300 + 190, "segmented_neutrophil": 570 - 90})["smear_diagnosis"]
    assert borderline.class_name == "normal|other_abnormal"


def test_few_monocytes_are_noted_but_do_not_decide() -> None:
    counts = {**HEALTHY, "monocyte": 0, "segmented_neutrophil": 640}
    diagnosis = ask(counts)["smear_diagnosis"]
    assert "Monocytes" in diagnosis.wording
    assert diagnosis.class_name == "normal"


def test_nucleated_red_cells_make_adult_blood_abnormal() -> None:
    diagnosis = ask({**HEALTHY, "erythroblast": 150})["smear_diagnosis"]
    assert diagnosis.class_name == "other_abnormal"
    assert "15.0 per 100 white cells" in diagnosis.wording
    assert ask({**HEALTHY, "erythroblast": 2})["smear_diagnosis"].class_name == "normal"


def test_trephine_abstains_without_a_model() -> None:
    section = load_taxonomy("section")
    result = differential({"nucleus": 10_000}, specimen="trephine", taxonomy=section)
    answers = criteria_predictions(
        result, slide_id="s1", subject_id="", specimen="trephine", taxonomy=section, config=BLOOD
    )
    assert [(a.task, a.abstained, a.reason, a.model) for a in answers] == [
        ("mpn", True, "no-real-training-data", "none")
    ]


def test_patients_and_slides_are_distinct() -> None:
    result = differential(HEALTHY, specimen="blood_smear", taxonomy=TAXONOMY)
    rows = [
        a.row()
        for a in criteria_predictions(
            result,
            slide_id="s1",
            subject_id="p1",
            specimen="blood_smear",
            taxonomy=TAXONOMY,
            config=BLOOD,
            level="patient",
        )
    ]
    assert {(r["level"], r["slide_id"], r["subject_id"]) for r in rows} == {("patient", "", "p1")}
    with pytest.raises(ConfigError, match="needs subject_id"):
        criteria_predictions(
            result,
            slide_id="s1",
            subject_id="",
            specimen="blood_smear",
            taxonomy=TAXONOMY,
            config=BLOOD,
            level="patient",
        )


def test_specimen_must_be_that_of_the_differential() -> None:
    result = differential(HEALTHY, specimen="blood_smear", taxonomy=TAXONOMY)
    with pytest.raises(ConfigError, match="blood_smear"):
        criteria_predictions(
            result, slide_id="s1", subject_id="", specimen="marrow_smear", taxonomy=TAXONOMY, config=MARROW
        )


def test_a_taxonomy_without_blasts_abstains() -> None:
    counts = {"neutrophil": 300, "lymphocyte": 100}
    answers = ask(counts, taxonomy=load_taxonomy("five-part"))
    assert answers["aml"].reason == answers["smear_diagnosis"].reason == "no-blast-class"


def lineage_taxonomy() -> Taxonomy:
    """A set that does tell blasts and promyelocytes apart, as a richer classifier would."""
    data = TAXONOMY.model_dump()
    template = next(c for c in data["classes"] if c["code"] == "blast")
    data["classes"] = [
        *data["classes"],
        {**template, "code": "myeloblast", "meaning": None, "aliases": ()},
        {**template, "code": "lymphoblast", "meaning": None, "aliases": ()},
        {**template, "code": "abnormal_promyelocyte", "meaning": None, "aliases": ()},
    ]
    data["roll_ups"] |= {
        "myeloid_blasts": ("myeloblast",),
        "lymphoblasts": ("lymphoblast",),
        "abnormal_promyelocytes": ("abnormal_promyelocyte",),
    }
    return Taxonomy.model_validate({**data, "refused_roll_ups": {}})


def test_lymphoblasts_are_never_aml() -> None:
    answers = ask({"lymphoblast": 800, "lymphocyte": 200}, taxonomy=lineage_taxonomy())
    assert answers["aml"].class_name == "below_range"
    assert answers["smear_diagnosis"].class_name == "other_abnormal"
    assert "lymphoblasts in acute-leukaemia range" in answers["smear_diagnosis"].wording


def test_undetermined_blasts_are_not_lumped_into_aml_and_not_dismissed() -> None:
    answers = ask({"blast": 600, "segmented_neutrophil": 400}, taxonomy=lineage_taxonomy())
    assert answers["aml"].reason == "blast-lineage-undetermined"
    assert answers["smear_diagnosis"].class_name == "aml_range|other_abnormal"
    assert "60.0 %" in answers["smear_diagnosis"].wording
    myeloid = ask({"myeloblast": 600, "segmented_neutrophil": 400}, taxonomy=lineage_taxonomy())
    assert myeloid["aml"].class_name == "aml_range"
    assert "Myeloid blasts: 600 of 1000" in myeloid["aml"].wording


def test_apl_alert_wording_and_consistency() -> None:
    answers = ask({"abnormal_promyelocyte": 150, "segmented_neutrophil": 850}, taxonomy=lineage_taxonomy())
    assert answers["apl"].class_name == "apl_alert"
    assert answers["apl"].wording.startswith(
        "APL alert: abnormal promyelocytes; confirm PML::RARA and coagulation today"
    )
    assert answers["aml"].reason == "apl-alert"
    assert "aml_range" in answers["smear_diagnosis"].class_name
    # Normal promyelocytes raise no alert where abnormal ones are known.
    normal = ask({"promyelocyte": 150, "segmented_neutrophil": 850}, taxonomy=lineage_taxonomy())
    assert normal["apl"].class_name == "no_alert"
    assert normal["aml"].class_name == "below_range"


def test_an_abstention_carries_no_answer() -> None:
    abstained = ask({})["aml"]
    with pytest.raises(DataError, match="reason and nothing else"):
        Prediction(**{**vars(abstained), "class_name": "aml_range"})
    with pytest.raises(DataError, match="a class and what it is based on"):
        Prediction(**{**vars(abstained), "abstained": False})


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*TAXONOMY.codes, "myeloblast", "lymphoblast", "abnormal_promyelocyte"]),
        st.integers(0, 600),
        min_size=1,
    ),
    st.sampled_from(SPECIMENS),
    st.booleans(),
)
def test_joint_and_binary_answers_never_contradict(counts: dict[str, int], specimen: Specimen, lineage: bool) -> None:
    taxonomy = lineage_taxonomy() if lineage else TAXONOMY
    answers = ask({c: k for c, k in counts.items() if c in taxonomy.codes}, specimen, taxonomy)
    diagnosis, aml = answers["smear_diagnosis"], answers["aml"]
    names = diagnosis.class_name.split("|") if diagnosis.class_name else []
    assert set(names) < set(SMEAR_CLASSES)
    assert names == [c for c in SMEAR_CLASSES if c in names]
    assert diagnosis.abstained == (not names)
    if not diagnosis.abstained:
        assert ("aml_range" in names) == (aml.class_name != "below_range")
        assert (names == ["aml_range"]) == (aml.class_name == "aml_range")
    if answers["apl"].class_name == "apl_alert":
        assert aml.class_name != "below_range"
    for answer in answers.values():
        row = answer.row()
        if not answer.abstained:
            assert 0 <= row["lower"] <= row["probability"] <= row["upper"] <= 1  # type: ignore[operator]
        json.dumps(answer.to_dict(), allow_nan=False)


def test_ranges_name_their_source_and_population() -> None:
    table = adult_blood_ranges()
    assert table.population == "adults"
    assert "Davis" in table.source
    assert all(r.low < r.high and r.roll_up in TAXONOMY.roll_ups for r in table.ranges)
