"""Proportions of true classes from answered ones: the classifier's errors, measured on images, taken back out.

A classifier that answers class ``j`` for a share ``M[i, j]`` of the cells of true class ``i`` turns true proportions
``p`` into answered ones ``q = p M``. With two classes, solving for ``p`` is the estimator of Rogan & Gladen (1978);
with more it is the matrix method of Buonaccorsi (2010), and solved under ``p >= 0`` by maximum likelihood it is the
EM of Saerens et al. (2002) for answers instead of probabilities (Forman 2008 compares such methods). It presumes that
the classifier errs on the slide as it did on the images behind ``M``.

The interval carries both errors: that of counting a sample of cells, and that of knowing ``M`` from a finite number of
images only. Answered proportions and every row of ``M`` are drawn from their own distributions, and each draw is
solved as the counts are; the interval is the central part of the solutions. For one class and known specificity this
is the "confidence distribution" or melded interval of Fay et al. (2015), applied to prevalence by Bayer et al. (2023).

Choices made by simulation (``benchmarks/correction.py``):

- Answered proportions are Dirichlet(k + 1/2): with less, a class that was never answered has no room above 0.
- Rows of ``M`` are Dirichlet(C + 1/4): an error that was not seen among some hundred images may still happen. With 0
  or 1/13 an error counts as (nearly) impossible once it was not seen, every answer of a rare class then proves cells
  of that class, and groups that make up the whole count are missed. With 1/2 the unseen errors of a row outweigh the
  seen ones.
- Where all draws lie on an edge, because the classifier errs less on the slide than on its images, the interval would
  be the point 0. No correction knows more than a classifier without errors would that answered the class never:
  of ``n`` cells, a share of ``1 - (tail) ** (1 / n)`` is not excluded (Clopper & Pearson 1934), and no upper limit is
  below it. Likewise at 1.
- A parametric bootstrap of both instead is too wide for two classes taken for each other, too narrow for rare ones.

References
----------
Clopper CJ, Pearson ES. Biometrika 1934;26:404-413. Rogan WJ, Gladen B. Am J Epidemiol 1978;107:71-76. Saerens M,
Latinne P, Decaestecker C. Neural Comput 2002;14:21-41. Forman G. Data Min Knowl Discov 2008;17:164-206. Buonaccorsi
JP. Measurement Error, Chapman & Hall/CRC, 2010, chapter 3. Fay MP, Proschan MA, Brittain E. Biometrics
2015;71:146-156. Bayer DM, Fay MP, Graubard BI. arXiv 2205.13494, 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError, ModelError

FloatArray = npt.NDArray[np.float64]

DRAWS = 2000
ANSWER_PRIOR = 0.5
ERROR_PRIOR = 0.25
_SEED = 20_260_101
_BLOCK = 25
_MOST_STEPS = 1500
_STILL = 1e-5
"""EM stops for a draw that moved by less than this (a thousandth of a percent) over a block of steps."""
_STILL_ESTIMATE = 1e-9
_EDGE = 5e-5
"""A share nearer to 0 or 1 than this is taken for it; less than what two decimals of a percentage show."""


@dataclass(frozen=True, kw_only=True)
class ConfusionTable:
    """How a classifier answered images of known class.

    Parameters
    ----------
    classes
        All answers of the classifier, which are also the rows.
    counts
        ``counts[i][j]``: images of class ``i`` answered ``j``.
    images
        Which images, in words.
    """

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    images: str = ""

    def __post_init__(self) -> None:
        size = len(self.classes)
        if not size or len(set(self.classes)) != size:
            raise DataError(f"a confusion table needs distinct classes; found {', '.join(self.classes) or 'none'}")
        if len(self.counts) != size or any(len(row) != size for row in self.counts):
            raise DataError(f"a confusion table of {size} classes needs {size} rows of {size} counts")
        if any(k < 0 for row in self.counts for k in row):
            raise DataError("a confusion table holds no negative counts")

    @property
    def n_per_class(self) -> dict[str, int]:
        """Return the number of images of each class."""
        return {name: sum(row) for name, row in zip(self.classes, self.counts, strict=True)}

    @classmethod
    def from_card(cls, card: Mapping[str, Any], specimen: str) -> ConfusionTable | None:
        """Return the table of a classifier's card for a specimen; None where the card has none.

        Raises
        ------
        ModelError
            The card's entry is not a confusion table of the card's classes.
        """
        entry = card.get("confusion", {}).get("specimens", {}).get(specimen)
        if entry is None:
            return None
        try:
            table = cls(
                classes=tuple(entry["classes"]),
                counts=tuple(tuple(int(k) for k in row) for row in entry["counts"]),
                images=str(entry["images"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the card of {card.get('name')} has a confusion that cannot be read: {error}") from None
        if set(table.classes) != set(card.get("classes", ())):
            raise ModelError(f"the card of {card.get('name')} has a confusion of other classes than it answers")
        return table


@dataclass(frozen=True, kw_only=True)
class CorrectedProportions:
    """True proportions of all classes.

    Parameters
    ----------
    classes
        As in the table.
    estimate
        ``(classes,)``, adding up to 1.
    draws
        ``(classes, draws)``: what the proportions may be; each column adds up to 1.
    n
        Cells that were answered.
    """

    classes: tuple[str, ...]
    estimate: FloatArray
    draws: FloatArray
    n: int

    def share(
        self, members: Sequence[str], denominator: Sequence[str], confidence: float
    ) -> tuple[float, float, float]:
        """Return the share of a group of classes among those of the denominator, with its interval.

        The interval comes from the joint draws, so that errors between the members of a group cancel.

        Returns
        -------
        estimate, lower, upper
            Fractions with ``lower <= estimate <= upper``; ``(nan, nan, nan)`` where the denominator is empty.
        """
        part = [self.classes.index(c) for c in members]
        whole = [self.classes.index(c) for c in denominator]
        total = self.estimate[whole].sum()
        if total <= 0:
            return float("nan"), float("nan"), float("nan")
        value = float(self.estimate[part].sum() / total)
        of = self.draws[whole].sum(axis=0)
        shares = np.divide(self.draws[part].sum(axis=0), of, out=np.zeros_like(of), where=of > 0)
        tail = (1 - confidence) / 2
        lower, upper = np.quantile(shares, [tail, 1 - tail])
        unseen = 0.0 if set(whole) <= set(part) else 1 - tail ** (1 / max(1.0, self.n * float(total)))
        # Near 0 and 1 the estimate may lie beyond the draws by a hair.
        low, high = min(value, float(lower), 1 - unseen), max(value, float(upper), unseen)
        return value, 0.0 if low < _EDGE else low, 1.0 if high > 1 - _EDGE else high


def correct_proportions(
    answered: Mapping[str, int], table: ConfusionTable, *, draws: int = DRAWS
) -> CorrectedProportions:
    """Estimate the true proportions behind answered counts.

    Parameters
    ----------
    answered
        Cells by answered class; classes that are not named were never answered.
    table
        How the classifier answered images of known class.
    draws
        Number of draws behind the intervals. Their seed is fixed and the classes are worked through by name, so
        that the result is a function of the counts and the table alone.

    Raises
    ------
    DataError
        No cell was answered, an answer is not in the table, or a class has no image.
    """
    unknown = sorted(set(answered) - set(table.classes))
    if unknown:
        raise DataError(f"answers {', '.join(unknown)} are not in the confusion table of {', '.join(table.classes)}")
    if min(answered.values(), default=0) < 0:
        raise DataError("counts are not negative")
    silent = [name for name, n in table.n_per_class.items() if not n]
    if silent:
        raise DataError(f"the confusion table has no image of {', '.join(silent)}")
    order = sorted(range(len(table.classes)), key=lambda i: table.classes[i])
    k = np.array([answered.get(table.classes[i], 0) for i in order], dtype=np.float64)
    if not k.sum():
        raise DataError("no cell was answered; there is nothing to correct")
    c = np.array(table.counts, dtype=np.float64)[np.ix_(order, order)]
    # An answer that no image ever got would be impossible, and the likelihood zero whatever the proportions.
    seen = c + ERROR_PRIOR if ((c.sum(axis=0) == 0) & (k > 0)).any() else c
    rates = (seen / seen.sum(axis=1, keepdims=True))[:, :, None]
    estimate = maximum_likelihood((k / k.sum())[:, None], rates, still=_STILL_ESTIMATE, most_steps=50_000)
    # EM comes near an edge without reaching it.
    estimate[estimate < _EDGE] = 0
    estimate /= estimate.sum(axis=0)
    rng = np.random.default_rng(_SEED)
    q = _dirichlet(rng, k + ANSWER_PRIOR, draws)
    drawn = np.stack([_dirichlet(rng, row + ERROR_PRIOR, draws) for row in c])
    back = np.argsort(order)
    return CorrectedProportions(
        classes=table.classes,
        estimate=estimate[back, 0],
        draws=maximum_likelihood(q, drawn)[back],
        n=int(k.sum()),
    )


def maximum_likelihood(
    answered: FloatArray, rates: FloatArray, *, still: float = _STILL, most_steps: int = _MOST_STEPS
) -> FloatArray:
    """Return the true proportions under which the answered ones are likeliest, many problems at once.

    EM for the weights of a mixture of known multinomials (Dempster, Laird & Rubin 1977; Saerens et al. 2002).
    Where the linear solution of ``q = p M`` has no negative part, it is the answer; otherwise that lies on an edge.

    Parameters
    ----------
    answered
        ``(answers, problems)``, columns adding up to 1.
    rates
        ``(classes, answers, problems)``: share of each class answered so; rows add up to 1.
    still, most_steps
        A problem is done when no proportion moved by ``still`` over a block of steps, at the latest after
        ``most_steps``.

    Returns
    -------
    ndarray
        ``(classes, problems)``, not negative, columns adding up to 1.
    """
    classes, _, problems = rates.shape
    result = np.empty((classes, problems))
    left = np.arange(problems)
    p = np.full((classes, problems), 1 / classes)
    for _ in range(most_steps // _BLOCK):
        before = p
        for _ in range(_BLOCK):
            expected = np.einsum("id,ijd->jd", p, rates)
            ratio = np.divide(answered, expected, out=np.zeros_like(answered), where=expected > 0)
            p = p * np.einsum("ijd,jd->id", rates, ratio)
        result[:, left] = p
        moving = np.abs(p - before).max(axis=0) >= still
        if not moving.any():
            break
        left = left[moving]
        p, answered, rates = p[:, moving], answered[:, moving], rates[:, :, moving]
    return result / result.sum(axis=0)


def _dirichlet(rng: np.random.Generator, weights: FloatArray, draws: int) -> FloatArray:
    """Return ``(len(weights), draws)``, columns adding up to 1."""
    gamma = rng.standard_gamma(np.broadcast_to(weights[:, None], (len(weights), draws)))
    return np.asarray(gamma / gamma.sum(axis=0))
