"""The shipped model: it loads, its card is whole, and a textbook patient is answered as a clinician would expect."""

from __future__ import annotations

from wsi_pipeline.predictions.counts.model import load_counts_model

APL = {
    "age": 45.0, "WBC_G_L": 1.5, "MCV_fL": 88.0, "MCHC_g_L": 345.0, "ANC_percent": 15.0, "ANC_G_L": 0.23,
    "Lymphocytes_percent": 60.0, "Lymphocytes_G_L": 0.9, "Monocytes_percent": 1.0, "Monocytes_G_L": 0.02,
    "Platelets_G_L": 20.0, "PT_percent": 60.0, "Fibrinogen_g_L": 1.0, "LDH_UI_L": 300.0,
}  # fmt: skip


def test_low_fibrinogen_and_counts_are_called_apl_with_the_alert() -> None:
    model = load_counts_model()
    answer = model.answer("P1", APL, precondition=True)
    assert (answer.predicted, answer.apl_alert) == ("APL", True)
    assert answer.contributions[0].analyte == "Fibrinogen_g_L"
    assert answer.notes, "what its trust was worth on held-out patients"
    assert model.card["licence"] == "MIT"
    assert {"AUC ALL", "AUC AML", "AUC APL"} <= {figure["name"] for figure in model.card["metrics"]}


def test_fewer_values_leave_more_open() -> None:
    model = load_counts_model()
    partial = {name: APL[name] for name in ("age", "WBC_G_L", "Platelets_G_L", "MCV_fL", "MCHC_g_L", "ANC_G_L")}
    answer = model.answer("P1", partial, precondition=True)
    assert answer.trust != "green"
    low, high = answer.spread["APL"]
    assert high - low > 0.2
    assert answer.missing[0] == "Fibrinogen_g_L"
