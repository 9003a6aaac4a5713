"""A model with the interface the page uses; its answer is a plain rule of one value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wsi_pipeline.predictions.counts.analytes import load_analytes
from wsi_pipeline.predictions.counts.answers import Contribution, CountsAnswer
from wsi_pipeline.serve.page import Page

TOKEN = "token-of-the-tests"


ANALYTES = load_analytes()


class FakeModel:
    """APL where platelets are below 50 G/L; without platelets the answer is open and red."""

    analytes = ANALYTES
    trained_on = "no patient: a rule of the tests"

    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, float | None], bool]] = []
        self.fails: Exception | None = None

    def answer(self, patient: str, values: Mapping[str, float | None], *, precondition: bool) -> CountsAnswer:
        self.asked.append((dict(values), precondition))
        if self.fails is not None:
            raise self.fails
        missing = tuple(a.name for a in reversed(ANALYTES) if values[a.name] is None)
        if not precondition:
            return self._abstained(patient, "precondition-not-confirmed", missing)
        if len(missing) == len(ANALYTES):
            return self._abstained(patient, "too-few-values", missing)
        platelets = values["Platelets_G_L"]
        apl = 0.93 if platelets is not None and platelets < 50 else 0.20
        shares = {"AML": (1 - apl) * 0.7, "ALL": (1 - apl) * 0.3, "APL": apl}
        spread = {c: (s, s) if not missing else (s / 2, min(1.0, s * 1.4)) for c, s in shares.items()}
        predicted = max(shares, key=lambda c: shares[c])
        size = {a.name: 0.1 * i - 0.3 for i, a in enumerate(ANALYTES)} | {"Platelets_G_L": 1.6}
        return CountsAnswer(
            patient=patient, probabilities=shares, spread=spread, predicted=predicted,
            trust="red" if platelets is None else "green" if not missing else "orange",
            reason="uncertain" if platelets is None else "apl-not-excluded" if apl > 0.5 else "",
            apl_alert=apl > 0.5,
            contributions=tuple(
                Contribution(
                    analyte=a.name, value=values[a.name],
                    effect={"AML": -size[a.name] / 2, "ALL": -size[a.name] / 2, "APL": size[a.name]},
                    words={
                        "en": f"{a.short['en']} speaks for {predicted}.",
                        "fr": f"{a.short['fr']} parle pour {predicted}.",
                    },
                )
                for a in sorted(ANALYTES, key=lambda a: -abs(size[a.name]))
            ),
            baseline={"AML": 0.5, "ALL": -0.2, "APL": -0.3},
            missing=missing,
            notes=({"en": "A note <b>in English</b>.", "fr": "Une remarque en français."},),
        )  # fmt: skip

    def _abstained(self, patient: str, reason: Any, missing: tuple[str, ...]) -> CountsAnswer:
        return CountsAnswer(
            patient=patient, probabilities={}, spread={}, predicted="", trust="red", reason=reason, apl_alert=False,
            contributions=(), baseline={}, missing=missing,
        )  # fmt: skip


def fake_page(model: FakeModel | None = None) -> Page:
    """Return the page of the fake model, with a token the tests know."""
    return Page(model=model or FakeModel(), model_name="fake", token=TOKEN)
