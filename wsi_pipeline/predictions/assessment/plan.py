"""How a study is made: everything that changes its figures, so that they can be had again."""

from __future__ import annotations

from dataclasses import dataclass

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.predictions.assessment.operating import Rule


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes, rules and the seed of a study.

    Parameters
    ----------
    folds, repeats
        Of the cross-validation; in every repeat the folds are others.
    inner_folds
        Folds inside each training part, by which nested cross-validation chooses among candidates; 0 leaves it out.
    replicates
        Of every bootstrap.
    null_repeats
        How often the labels are shuffled; 0 leaves the null check out.
    rules
        Of the operating points.
    accuracies
        For which the coverage is wanted.
    fractions
        Shares of the training patients for the learning curve, rising; empty leaves it out.
    bins
        Of the reliability tables.

    Raises
    ------
    ConfigError
        A size makes no sense.
    """

    folds: int = 10
    repeats: int = 3
    inner_folds: int = 0
    replicates: int = 2000
    null_repeats: int = 3
    rules: tuple[Rule, ...] = (
        Rule(kind="specificity", target=0.9),
        Rule(kind="specificity", target=0.95),
        Rule(kind="sensitivity", target=0.95),
        Rule(kind="youden"),
    )
    accuracies: tuple[float, ...] = (0.9, 0.95, 0.97)
    fractions: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    bins: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("folds", 2), ("repeats", 1), ("replicates", 1), ("bins", 2), ("null_repeats", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} of a study must be at least {least}, not {getattr(self, name)}")
        if self.inner_folds < 0 or self.inner_folds == 1:
            raise ConfigError(f"inner_folds is 0 (none) or at least 2, not {self.inner_folds}")
        if any(not 0 < a <= 1 for a in self.accuracies):
            raise ConfigError(f"accuracies lie above 0 and up to 1: {self.accuracies}")
