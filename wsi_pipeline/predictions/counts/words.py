"""What is said to a clinician: what a value speaks for, and what the trust means; English and French."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wsi_pipeline.predictions.counts.analytes import Analyte
from wsi_pipeline.predictions.counts.answers import Reason, Trust

CLASS_NAMES = {
    "en": {"ALL": "ALL", "AML": "AML", "APL": "APL"},
    "fr": {"ALL": "LAL", "AML": "LAM", "APL": "LAP"},
}

PRECONDITION = {
    "en": "Valid only where acute leukaemia is established or strongly suspected. Research use only.",
    "fr": "Valable seulement si une leucémie aiguë est établie ou fortement suspectée. Recherche uniquement.",
}

_STRONG, _CLEAR = 0.6, 0.2
"""Log-odds from which an effect is called strong or clear; our choice, for the words alone."""

_STRENGTH = {"en": ("strongly", "clearly", "slightly"), "fr": ("fortement", "nettement", "légèrement")}
_FRENCH_UNITS = {"years": "ans"}
_LEVEL = {"en": ("low", "within range", "high"), "fr": ("valeur basse", "dans les normes", "valeur élevée")}


def explain(analyte: Analyte, value: float | None, effect: Mapping[str, float], predicted: str) -> dict[str, str]:
    """Return one sentence by language on what a value adds for the predicted class.

    Parameters
    ----------
    effect
        Log-odds by class (:class:`~wsi_pipeline.predictions.counts.answers.Contribution`).
    """
    return {language: _sentence(language, analyte, value, effect, predicted) for language in CLASS_NAMES}


def _sentence(language: str, analyte: Analyte, value: float | None, effect: Mapping[str, float], predicted: str) -> str:
    name, names = analyte.short[language], CLASS_NAMES[language]
    size = abs(effect[predicted])
    strength = _STRENGTH[language][0 if size >= _STRONG else 1 if size >= _CLEAR else 2]
    french = language == "fr"
    if value is None:
        shown = f"{name} sans valeur (valeurs plausibles)" if french else f"{name} not given (its likely values)"
    else:
        unit = _FRENCH_UNITS.get(analyte.unit, analyte.unit) if french else analyte.unit
        number = f"{value:.{analyte.decimals}f}"
        shown = f"{name} {number.replace('.', ',') if french else number} {unit}"
        if analyte.reference is not None:
            low, high = analyte.reference
            level = 0 if value < low else 2 if value > high else 1
            shown = f"{shown} ({_LEVEL[language][level]})"
    best = max(effect, key=lambda c: effect[c])
    if effect[predicted] >= 0:
        says = (
            f"plaide {strength} en faveur d'une {names[predicted]}" if french else f"{strength} for {names[predicted]}"
        )
    else:
        says = (
            f"plaide {strength} contre une {names[predicted]} (plutôt en faveur d'une {names[best]})"
            if french
            else f"{strength} against {names[predicted]} (rather for {names[best]})"
        )
    return f"{shown} : {says}" if french else f"{shown}: {says}"


def notes_on(reason: Reason, trust: Trust, card: Mapping[str, Any]) -> tuple[dict[str, str], ...]:
    """Return what answers of this trust were worth on held-out patients, by language; nothing for an abstention."""
    measured = card.get("trust_measured", {}).get(trust)
    if not measured or not measured["n"] or reason not in ("", "uncertain", "apl-not-excluded"):
        return ()
    right, n = measured["right"], measured["n"]
    low, high = 100 * measured["lower"], 100 * measured["upper"]
    return (
        {
            "en": f"Of held-out training patients {right} of {n} such answers ({trust}) were right "
            f"({low:.0f}-{high:.0f} %, 95 % interval).",
            "fr": f"Chez les patients mis de côté, {right} réponses sur {n} de ce niveau étaient exactes "
            f"({low:.0f}-{high:.0f} %, intervalle à 95 %).",
        },
    )
