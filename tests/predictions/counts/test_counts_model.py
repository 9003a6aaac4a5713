from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.predictions.counts.counts_models import normal_row, simulated, small_model, values_of
from wsi_pipeline.errors import MissingWeightsError, ModelError
from wsi_pipeline.predictions.counts.features import ANALYTES, CLASSES
from wsi_pipeline.predictions.counts.model import TASK, CountsModel, load_counts_model, model_path, pack
from wsi_pipeline.predictions.counts.trust import TrustRules
from wsi_pipeline.weights import file_sha256


def write_model(folder: Path, content: bytes | None = None, name: str = "small") -> Path:
    path = model_path(folder, name)
    path.write_bytes(pack(small_model()) if content is None else content)
    card = {"name": name, "task": TASK, "sha256": file_sha256(path), "specimens": ["blood_counts"]}
    (folder / f"{name}.json").write_text(json.dumps(card))
    return path


def test_contributions_add_up_to_the_margin() -> None:
    model, table = small_model(), simulated(30, seed=3)
    effects, baseline = model.ensemble.contributions(table.values)
    assert effects.shape == (30, 14, 3)
    assert np.allclose(effects.sum(axis=1) + baseline, model.ensemble.margins(table.values), atol=1e-4)


def test_an_answer_s_effects_and_baseline_give_its_probabilities() -> None:
    table = simulated(30, seed=4)
    answer = small_model().answer("x", values_of(table, 2), precondition=True)
    margin = {c: answer.baseline[c] + sum(k.effect[c] for k in answer.contributions) for c in CLASSES}
    total = sum(np.exp(m) for m in margin.values())
    for c in CLASSES:
        assert np.exp(margin[c]) / total == pytest.approx(answer.probabilities[c], abs=1e-3)


def test_new_patients_are_told_apart() -> None:
    table = simulated(300, seed=5)
    found = small_model().predict(table.values)
    answered = found.predicted >= 0
    assert answered.mean() > 0.9
    assert (found.predicted == table.labels)[answered].mean() > 0.9
    assert np.allclose(found.probabilities[answered].sum(axis=1), 1)
    green = found.trust == "green"
    assert green.any()
    assert (found.predicted == table.labels)[green].mean() >= 0.97


def test_single_and_batch_answers_agree() -> None:
    table = simulated(30, seed=6, missing=0.1)
    model = small_model()
    found = model.predict(table.values)
    for row in range(30):
        answer = model.answer("x", values_of(table, row), precondition=True)
        assert answer.trust == found.trust[row]
        assert answer.reason == found.reason[row]
        assert answer.predicted == (CLASSES[found.predicted[row]] if found.predicted[row] >= 0 else "")


def test_counts_within_reference_ranges_get_no_answer() -> None:
    found = small_model().predict(normal_row())
    assert found.reason[0] == "not-applicable"
    assert found.predicted[0] == -1
    assert np.isnan(found.probabilities).all()
    abnormal = normal_row()
    abnormal[0, ANALYTES.index("Platelets_G_L")] = 20.0
    assert small_model().predict(abnormal).reason[0] != "not-applicable"
    unknown = normal_row()
    unknown[0, ANALYTES.index("Platelets_G_L")] = np.nan
    assert small_model().predict(unknown).reason[0] != "not-applicable"


def test_without_the_precondition_there_is_no_answer() -> None:
    answer = small_model().answer("x", values_of(simulated(3), 0), precondition=False)
    assert answer.abstained
    assert answer.reason == "precondition-not-confirmed"
    assert answer.probabilities == {}


def test_too_few_values_get_no_answer() -> None:
    row = simulated(3).values[:2].copy()
    row[0, 5:] = np.nan
    row[1, ANALYTES.index("WBC_G_L")] = np.nan
    assert small_model().predict(row).reason.tolist() == ["too-few-values"] * 2
    nothing = small_model().predict(np.full((1, 14), np.nan))
    assert nothing.reason.tolist() == ["too-few-values"]


def test_missing_values_widen_what_is_open_and_never_make_green_surer() -> None:
    model, table = small_model(), simulated(90, seed=7)
    full = model.predict(table.values)
    partial = table.values.copy()
    partial[:, [ANALYTES.index("Fibrinogen_g_L"), ANALYTES.index("PT_percent")]] = np.nan
    found = model.predict(partial)
    width = (found.upper - found.lower)[found.predicted >= 0]
    assert (full.upper - full.lower)[full.predicted >= 0].max() == 0
    assert width.max(axis=1).min() > 0
    green = found.trust == "green"
    chosen = found.predicted[green]
    assert (found.lower[green, chosen] >= np.asarray(model.rules.green)[chosen]).all()
    assert green.sum() < (full.trust == "green").sum()


def test_an_outlier_is_red_with_its_reason() -> None:
    row = simulated(3).values[:1].copy()
    row[0, ANALYTES.index("MCHC_g_L")] = 440.0
    row[0, ANALYTES.index("MCV_fL")] = 60.0
    found = small_model().predict(row)
    assert (found.trust[0], found.reason[0]) == ("red", "outlier")
    assert found.predicted[0] >= 0


def test_where_apl_is_not_excluded_nothing_else_is_green() -> None:
    model, table = small_model(), simulated(90, seed=8)
    lenient = TrustRules(green=(0.0,) * 3, orange=(0.0,) * 3, apl_alert=0.0)
    alerting = CountsModel(
        model.ensemble, model.population, lenient, temperature=1.0, importance=model.importance, card={}
    )
    found = alerting.predict(table.values)
    inside = (found.predicted >= 0) & (found.reason != "outlier")
    apl = found.predicted == CLASSES.index("APL")
    assert set(found.trust[inside & apl]) == {"green"}
    assert set(found.trust[inside & ~apl]) == {"orange"}
    assert set(found.reason[inside & ~apl]) == {"apl-not-excluded"}
    assert found.apl_alert[inside].all()


def test_the_order_of_rows_and_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from wsi_pipeline.predictions.counts import model as module

    table = simulated(61, seed=9, missing=0.1)
    whole = small_model().predict(table.values)
    monkeypatch.setattr(module, "_CHUNK", 7)
    cut = small_model().predict(table.values[::-1])
    assert np.array_equal(whole.probabilities, cut.probabilities[::-1], equal_nan=True)
    assert (whole.trust == cut.trust[::-1]).all()


def test_no_rows_give_no_answers() -> None:
    found = small_model().predict(np.empty((0, 14)))
    assert found.probabilities.shape == (0, 3)
    assert found.trust.shape == (0,)


def test_a_model_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    table = simulated(40, seed=10, missing=0.1)
    read = load_counts_model(str(path))
    assert np.array_equal(
        read.predict(table.values).probabilities, small_model().predict(table.values).probabilities, equal_nan=True
    )
    assert pack(read) == path.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {**c, "format": "other"}, "format 'other'"),
        (lambda c: {**c, "classes": ["AML", "ALL", "APL"]}, "classes"),
        (lambda c: {**c, "members": []}, "no members"),
        (lambda c: {**c, "members": [{**c["members"][0], "booster": {"a": 1}}]}, "damaged"),
        (lambda c: {**c, "members": [{**c["members"][0], "columns": "values"}]}, "columns, not 14"),
        (lambda c: {k: v for k, v in c.items() if k != "trust"}, "trust"),
        (lambda c: [1], "not a model of blood counts"),
    ],
)
def test_a_damaged_model_is_refused(tmp_path: Path, change, message: str) -> None:
    content = json.loads(gzip.decompress(pack(small_model())))
    path = write_model(tmp_path, gzip.compress(json.dumps(change(content)).encode()))
    with pytest.raises(ModelError, match=message):
        load_counts_model(str(path))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match="not shipped"):
        load_counts_model("nothing")
    with pytest.raises(ModelError, match="not a model of blood counts"):
        load_counts_model(str(write_model(tmp_path, b"plain text")))
    path = write_model(tmp_path)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ModelError, match="SHA-256"):
        load_counts_model(str(path))
    with pytest.raises(ModelError, match="is for cells"):
        load_counts_model("pbc-blast")


def test_sentences_say_the_value_its_level_and_whom_it_speaks_for() -> None:
    table = simulated(30, seed=11)
    row = next(i for i in range(30) if table.labels[i] == CLASSES.index("APL"))
    answer = small_model().answer("x", values_of(table, row), precondition=True)
    fibrinogen = next(c for c in answer.contributions if c.analyte == "Fibrinogen_g_L")
    assert re.match(r"Fibrinogen \d\.\d\d g/L \(low\): ", fibrinogen.words["en"])
    assert "(low)" in fibrinogen.words["en"]
    assert "for APL" in fibrinogen.words["en"]
    assert re.match(r"Fibrinogène \d,\d\d g/L \(sous les normes\) : ", fibrinogen.words["fr"])
    assert "LAP" in fibrinogen.words["fr"]
    strengths = [abs(c.effect[answer.predicted]) for c in answer.contributions]
    assert strengths == sorted(strengths, reverse=True)
