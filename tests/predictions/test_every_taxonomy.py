"""Differential and criteria on random counts of every shipped taxonomy, on every specimen."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.config import SPECIMENS, Specimen, load_config
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.predictions import Prediction, criteria_predictions, differential
from wsi_pipeline.taxonomies import Taxonomy, load_taxonomy, taxonomy_names

SMEARS = tuple(
    (name, specimen)
    for name in taxonomy_names()
    for specimen in SPECIMENS
    if specimen in load_taxonomy(name).denominators
)
CONFIGS = {specimen: load_config(specimen).predictions for specimen in SPECIMENS}


def ask(counts: dict[str, int], taxonomy: Taxonomy, specimen: Specimen) -> dict[str, Prediction]:
    result = differential(counts, specimen=specimen, taxonomy=taxonomy)
    answers = criteria_predictions(
        result, slide_id="s", subject_id="", specimen=specimen, taxonomy=taxonomy, config=CONFIGS[specimen]
    )
    return {a.task: a for a in answers}


def counts_of(taxonomy: Taxonomy) -> st.SearchStrategy[dict[str, int]]:
    return st.dictionaries(st.sampled_from(taxonomy.codes), st.sampled_from((0, 1, 3, 20, 100, 400)))


def test_the_specimens_are_those_of_the_data() -> None:
    marrow = {name for name, specimen in SMEARS if specimen == "marrow_smear"}
    assert marrow == {"matek-marrow", "pbc-blast"}
    assert {name for name, specimen in SMEARS if specimen == "blood_smear"} == set(taxonomy_names()) - {
        "matek-marrow",
        "red-cells",
        "section",
    }


@pytest.mark.parametrize("name", taxonomy_names())
def test_other_specimens_are_refused(name: str) -> None:
    taxonomy = load_taxonomy(name)
    for specimen in ("blood_smear", "marrow_smear"):
        if specimen not in taxonomy.denominators:
            with pytest.raises(ConfigError, match=f"{name} has no denominator for {specimen}"):
                differential({}, specimen=specimen, taxonomy=taxonomy)


@pytest.mark.parametrize(("name", "specimen"), SMEARS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_counts_get_answers_that_agree(name: str, specimen: Specimen, data: Any) -> None:
    taxonomy = load_taxonomy(name)
    counts = data.draw(counts_of(taxonomy))
    result = differential(counts, specimen=specimen, taxonomy=taxonomy)
    inside = set(taxonomy.countable(specimen))
    assert result.n == sum(k for code, k in counts.items() if code in inside)
    if result.n:
        assert sum(r.percent or 0 for r in result.rows) == pytest.approx(100)
    answers = ask(counts, taxonomy, specimen)
    assert set(answers) == {"smear_diagnosis", "aml", "apl", "mds"}
    groups = taxonomy.roll_ups
    if result.n < CONFIGS[specimen].min_cells:
        assert {a.reason for a in answers.values()} <= {"too-few-cells", "not-classified"}
        return
    knows_blasts = "blasts" in groups or "myeloid_blasts" in groups
    assert (answers["aml"].reason == "no-blast-class") is not knows_blasts
    if answers["apl"].class_name == "no_alert":
        assert "abnormal_promyelocytes" in groups
    if answers["aml"].class_name == "aml_range":
        assert answers["smear_diagnosis"].class_name == "aml_range"
    if answers["aml"].class_name == "below_range":
        assert "aml_range" not in answers["smear_diagnosis"].class_name
        assert answers["apl"].class_name != "apl_alert"
    if answers["smear_diagnosis"].class_name == "normal":
        foreign = result.count(groups.get("not_in_normal_blood", ()))
        assert foreign <= 0.01 * result.n


@pytest.mark.parametrize(("name", "specimen"), SMEARS)
def test_lymphoid_cells_alone_are_never_in_aml_range(name: str, specimen: Specimen) -> None:
    taxonomy = load_taxonomy(name)
    for c in taxonomy.classes:
        if c.lineage == "lymphoid" and c.code in taxonomy.countable(specimen):
            answers = ask({c.code: 1000}, taxonomy, specimen)
            assert answers["aml"].class_name in {"", "below_range"}
            assert "aml_range" not in answers["smear_diagnosis"].class_name
            if specimen == "blood_smear":
                assert "normal" not in answers["smear_diagnosis"].class_name.split("|")


def test_lymphoblasts_of_cytologia_have_their_own_words() -> None:
    answers = ask({"lymphoblast": 700, "neutrophil": 300}, load_taxonomy("cytologia"), "blood_smear")
    assert "lymphoblasts in acute-leukaemia range" in answers["smear_diagnosis"].wording
    assert answers["aml"].class_name == "below_range"


@pytest.mark.parametrize("name", ["cytologia", "mll23"])
def test_abnormal_promyelocytes_alert(name: str) -> None:
    taxonomy = load_taxonomy(name)
    mature = "neutrophil" if name == "cytologia" else "segmented_neutrophil"
    answers = ask({"abnormal_promyelocyte": 300, mature: 700}, taxonomy, "blood_smear")
    assert answers["apl"].class_name == "apl_alert"
    assert answers["aml"].class_name != "below_range"
    answers = ask({"promyelocyte": 300, mature: 700}, taxonomy, "blood_smear")
    assert answers["apl"].class_name == "no_alert"


def test_few_neoplastic_cells_are_not_normal() -> None:
    healthy = {"neutrophil": 560, "lymphocyte": 300, "monocyte": 60, "eosinophil": 20}
    taxonomy = load_taxonomy("cytologia")
    assert ask(healthy, taxonomy, "blood_smear")["smear_diagnosis"].class_name == "normal"
    for code in ("cll_cell", "sezary_cell", "abnormal_promyelocyte"):
        found = ask({**healthy, code: 60}, taxonomy, "blood_smear")["smear_diagnosis"]
        assert found.class_name == "other_abnormal"
        assert "normal adult blood has none" in found.wording
    found = ask({**healthy, "lymphocyte": 150, "reactive_lymphocyte": 200}, taxonomy, "blood_smear")
    assert "normal" not in found["smear_diagnosis"].class_name.split("|")


def test_bundles_of_auer_rods_alert_but_do_not_reassure() -> None:
    taxonomy = load_taxonomy("matek-marrow")
    rest = {"segmented_neutrophil": 400, "erythroblast": 300}
    answers = ask({**rest, "auer_bundle_promyelocyte": 200}, taxonomy, "marrow_smear")
    assert answers["apl"].class_name == "apl_alert"
    assert answers["aml"].reason == "apl-alert"
    few = ask({**rest, "auer_bundle_promyelocyte": 5}, taxonomy, "marrow_smear")["apl"]
    assert few.abstained
    assert few.reason == "only-auer-bundles"
    assert "PML::RARA" in few.wording
    none = ask(rest, taxonomy, "marrow_smear")["apl"]
    assert none.reason == "only-auer-bundles"
    assert "not excluded" in none.wording
    # Abnormal ones without bundles are among its promyelocytes: they keep AML open.
    many = ask({**rest, "promyelocyte": 300}, taxonomy, "marrow_smear")
    assert many["aml"].reason == "promyelocytes-may-be-blast-equivalents"
