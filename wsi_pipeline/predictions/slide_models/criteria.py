"""Published limits as a slide-level model that needs no training, to stand beside those that do.

Its number is a score, not a probability: 0.5 at the limit, ``x / (x + limit)`` for a share x of cells. What the
criteria answer for a slide, with their intervals, says :mod:`wsi_pipeline.predictions.criteria`.

==============  =======================================================  ======  =============================
task            share of cells                                           limit   source
==============  =======================================================  ======  =============================
aml             myeloid blasts (blasts, where lineage is not told)       20 %    WHO 2022, ICC 2022
apl             abnormal promyelocytes (all, where they are not told)    10 %    ICC 2022
mds             dysplastic neutrophils, of those judged                  10 %    WHO 2022
==============  =======================================================  ======  =============================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.predictions.bags.bag import CellBag
from wsi_pipeline.predictions.slide_features.feature import FloatArray
from wsi_pipeline.predictions.slide_features.groups import PROMYELOCYTES, groups_of, member
from wsi_pipeline.predictions.slide_models.subject import subjects_of
from wsi_pipeline.predictions.tasks import Task
from wsi_pipeline.predictions.wording import AML_LIMIT, RAISED_PROMYELOCYTES

NAME = "criteria"
DYSPLASIA_LIMIT = 0.10

_GROUPS = {
    "aml": (("myeloid_blasts", "blasts"), AML_LIMIT),
    "apl": (("abnormal_promyelocytes", PROMYELOCYTES), RAISED_PROMYELOCYTES),
}
_FLAGS = ("measured_hypogranular", "measured_pseudo_pelger")


@dataclass(frozen=True, kw_only=True)
class CriteriaModel:
    """The score of a task of two classes whose ``positive`` is AML, APL or MDS.

    Raises
    ------
    ConfigError
        There is no published limit for the task.
    """

    task: Task

    def __post_init__(self) -> None:
        if self._asked() is None:
            raise ConfigError(
                f"there is no published limit for task {self.task.name}; criteria answer aml, apl and mds"
            )

    @property
    def card(self) -> Mapping[str, Any]:
        """Return the card, as far as a model without weights has one."""
        return {
            "name": NAME, "sha256": "", "specimens": list(self.task.specimens), "reads_embedding": False,
            "simulated": False, "trained_on": NAME, "limits": [],
        }  # fmt: skip

    def probabilities(self, bags: Sequence[CellBag]) -> FloatArray:
        """Return scores ``(n, 2)``; 0.5 where no cell can be judged."""
        score = np.array([self._score(bag) for bag in bags])
        first = self.task.codes[0] == self.task.positive
        return np.stack([score, 1 - score] if first else [1 - score, score], axis=1)

    def attention(self, bag: CellBag) -> FloatArray | None:
        """Return None: the criteria count cells, all alike."""
        return None

    def _asked(self) -> str | None:
        if self.task.positive is None:
            return None
        states = set(self.task.get(self.task.positive).states)
        return "aml" if "aml_other" in states else next((s for s in ("apl", "mds") if s in states), None)

    def _score(self, bag: CellBag) -> float:
        asked = self._asked()
        if asked == "mds":
            flags = [bag.attributes[:, bag.attribute_names.index(n)] for n in _FLAGS if n in bag.attribute_names]
            table = np.stack(flags) if flags else np.full((1, len(bag)), np.nan)
            judged = np.isfinite(table).any(axis=0)
            share = float((np.nan_to_num(table[:, judged]).max(axis=0) > 0).mean()) if judged.any() else DYSPLASIA_LIMIT
            return share / (share + DYSPLASIA_LIMIT)
        names, limit = _GROUPS[str(asked)]
        groups = groups_of(bag.taxonomy, bag.classes)
        codes = next((groups[name] for name in names if name in groups), ())
        view = subjects_of([bag])[0].views[0]
        whole = float(view.countable.sum())
        share = float((view.classes @ member(bag.classes, codes)).sum()) / whole if whole and codes else limit
        return share / (share + limit)
