"""Tasks: the shipped ones, labels and their synonyms, files of users, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.predictions.tasks import load_task, task_names

_MINE = """\
name: mine
description: One thing or the other.
specimens: [blood_smear]
positive: one
classes:
  - {code: one, name_en: one, name_fr: un}
  - {code: other, name_en: other, name_fr: autre, synonyms: [rest]}
"""


def test_shipped_tasks_are_those_of_the_contract_and_have_states() -> None:
    assert set(task_names()) == {
        "smear_diagnosis", "aml", "apl", "apl_normal", "mds", "mds_reactive", "mpn", "mpn_subtype",
    }  # fmt: skip
    for name in task_names():
        task = load_task(name)
        assert task.name == name
        assert all(own.states for own in task.classes)
        assert (task.positive is not None) == (len(task.classes) == 2)


@pytest.mark.parametrize(
    ("task", "label", "code"),
    [
        ("apl", "AML", "aml_other"),
        ("apl", " M3 ", "apl"),
        ("aml", "APL", "aml"),
        ("aml", "témoin", "normal"),
        ("smear_diagnosis", "Acute Promyelocytic Leukemia", "apl"),
        ("smear_diagnosis", "MDS-like", "mds_like"),
        ("mpn", "pre-PMF", "mpn"),
        ("mpn", "normal", "reactive"),
        ("mpn_subtype", "Polycythemia vera", "pv"),
        ("apl", "normal", None),
        ("mds", "", None),
        ("mds", "?", None),
        ("apl", "PML::RARA", "apl"),
        ("apl", "PML::RARA -", None),
        ("apl", "pml-rara (\u2212)", None),
        ("apl", "non-APL AML", "aml_other"),
    ],
)
def test_labels_mean_classes(task: str, label: str, code: str | None) -> None:
    assert load_task(task).class_of(label) == code


def test_a_child_that_is_left_out_goes_into_its_parent() -> None:
    task = load_task("smear_diagnosis").restricted({"normal", "aml"})
    assert task.codes == ("normal", "aml")
    assert task.class_of("M3") == "aml"
    assert set(task.get("aml").states) == {"aml_other", "apl"}


def test_fewer_than_two_classes_are_refused() -> None:
    with pytest.raises(DataError, match="two or more"):
        load_task("aml").restricted({"aml"})


def test_a_task_of_a_user(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(_MINE)
    task = load_task(path)
    assert task.class_of("REST") == "other"
    assert task.open_states({"one"}) is None


def test_labels_may_be_of_any_script(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(_MINE.replace("fr: un", "fr: 急性白血病").replace("[rest]", "[正常, Здоров]"), encoding="utf-8")
    task = load_task(path)
    assert [task.class_of(label) for label in ("急性白血病", "正常", "ЗДОРОВ", "未知")] == [
        "one",
        "other",
        "other",
        None,
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("code: other", "code: one"), "stands twice"),
        (("positive: one", "positive: two"), "positive 'two'"),
        (("[rest]", "[ONE]"), "means one and other"),
        (("[rest]", '["?!"]'), "of other has no letter or digit"),
        (("blood_smear", "biopsy"), "specimens"),
        (("[blood_smear", "[trephine, blood_smear"), "not together with smears"),
        (("name: mine", "nom: mine"), "name"),
    ],
)
def test_what_is_no_task_is_refused_in_one_sentence(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(_MINE.replace(*change))
    with pytest.raises(ConfigError, match=said) as error:
        load_task(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match="smear_diagnosis"):
        load_task("lymphoma")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_task("missing.yaml")
