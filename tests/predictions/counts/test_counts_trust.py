from __future__ import annotations

import numpy as np
import pytest

from wsi_pipeline.errors import ModelError
from wsi_pipeline.predictions.counts.features import CLASSES
from wsi_pipeline.predictions.counts.trust import NEVER, HeldOut, TrustRules, choose_rules, fit_temperature

APL = CLASSES.index("APL")


def held_out(answered: int, sure: list[float], right: list[bool]) -> HeldOut:
    """Answers of one class, each as sure as said."""
    p = np.array([[(1 - s) / 2] * 3 for s in sure])
    p[:, answered] = sure
    truth = np.array([answered if r else (answered + 1) % 3 for r in right])
    return HeldOut(probabilities=p, truth=truth)


def test_green_needs_thirty_two_answers_without_an_error() -> None:
    sure = np.linspace(0.99, 0.8, 60).tolist()
    rules = choose_rules([held_out(1, sure[:31], [True] * 31)])
    assert rules.green[1] == NEVER
    rules = choose_rules([held_out(1, sure[:32], [True] * 32)])
    assert rules.green[1] == pytest.approx(sure[31])


def test_the_threshold_is_the_lowest_that_holds() -> None:
    sure = np.linspace(0.99, 0.5, 200).tolist()
    right = [True] * 200
    for k in (90, 91, 92, 93, 94):
        right[k] = False
    rules = choose_rules([held_out(0, sure, right)])
    n = sum(s >= rules.green[0] for s in sure)
    assert n == 90, "one error of 91 is more than one in a hundred"
    assert rules.orange[0] < rules.green[0]


def test_errors_of_one_scheme_count_for_all() -> None:
    sure = np.linspace(0.99, 0.8, 60).tolist()
    good = held_out(0, sure, [True] * 60)
    bad = held_out(0, [0.999] * 5, [False] * 5)
    assert choose_rules([good]).green[0] < NEVER
    assert choose_rules([good, bad]).green[0] == NEVER


def test_the_alert_reaches_its_sensitivity_in_every_scheme() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1], 400)
    truth = rng.integers(0, 3, 400)
    low = HeldOut(probabilities=p[:200] * [1, 1, 0.5], truth=truth[:200])
    schemes = [HeldOut(probabilities=p[200:], truth=truth[200:]), low]
    rules = choose_rules(schemes)
    for s in schemes:
        assert (s.probabilities[s.truth == APL, APL] >= rules.apl_alert).mean() >= 0.97


def test_temperature_undoes_what_was_multiplied() -> None:
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 1.5, (4000, 3))
    p = np.exp(margins) / np.exp(margins).sum(axis=1, keepdims=True)
    truth = np.array([rng.choice(3, p=row) for row in p])
    assert fit_temperature(margins * 3, truth) == pytest.approx(3, rel=0.1)


def test_damaged_rules_are_refused() -> None:
    rules = TrustRules(green=(0.9, 0.9, NEVER), orange=(0.5, 0.5, 0.5), apl_alert=0.1)
    assert TrustRules.from_json(rules.to_json()) == rules
    with pytest.raises(ModelError, match="each of ALL, AML, APL"):
        TrustRules.from_json({**rules.to_json(), "green": [0.9]})
