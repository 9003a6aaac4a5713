"""XGBoost models from a file that nobody vouches for: checked before XGBoost follows them.

XGBoost trusts the trees it reads: a child or a column that does not exist ends the process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_pipeline.errors import ModelError

if TYPE_CHECKING:
    import xgboost

_OBJECTIVES = ("multi:softprob", "reg:squarederror")


def load_booster(document: Mapping[str, Any], *, columns: int, outputs: int, threads: int) -> xgboost.Booster:
    """Return the booster of a JSON document of XGBoost.

    Parameters
    ----------
    columns, outputs
        How many it must take and give.
    threads
        0 takes all.

    Raises
    ------
    ModelError
        It is no model of trees, a tree leads astray, or it takes or gives another number of values.
    """
    import xgboost

    try:
        learner = document["learner"]
        objective, kind = learner["objective"]["name"], learner["gradient_booster"]["name"]
        if kind != "gbtree" or objective not in _OBJECTIVES:
            raise ModelError(
                f"{kind!s:.40} with objective {objective!s:.40}; trees for {' or '.join(_OBJECTIVES)} needed"
            )
        found = int(learner["learner_model_param"]["num_feature"])
        if found != columns:
            raise ModelError(f"it takes {found} columns, not {columns}")
        trees = learner["gradient_booster"]["model"]
        groups = np.asarray(trees["tree_info"])
        if len(groups) == 0 or groups.min() < 0 or groups.max() >= outputs:
            raise ModelError(f"its trees are not of {outputs} outputs")
        for number, tree in enumerate(trees["trees"]):
            if not _leads_to_leaves(tree, columns):
                raise ModelError(f"tree {number} is damaged")
        booster = xgboost.Booster({"nthread": threads})
        booster.load_model(bytearray(json.dumps(document), "utf-8"))
        answer = booster.inplace_predict(np.ones((1, columns)), predict_type="margin", validate_features=False)
    except ModelError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, xgboost.core.XGBoostError) as error:
        raise ModelError(f"no XGBoost model ({type(error).__name__}: {str(error)[:80]})") from None
    if answer.size != outputs or not np.isfinite(answer).all():
        raise ModelError(f"it does not give {outputs} numbers")
    return booster


def _leads_to_leaves(tree: Mapping[str, Any], columns: int) -> bool:
    """Tell whether every node but the root is the child of one node, and every split is on a known column."""
    left, right = np.asarray(tree["left_children"]), np.asarray(tree["right_children"])
    split, kinds = np.asarray(tree["split_indices"]), np.asarray(tree["split_type"])
    n = len(left)
    if n == 0 or not (left.shape == right.shape == split.shape == kinds.shape == (n,)) or kinds.any():
        return False
    if any(array.dtype.kind not in "iu" for array in (left, right, split)):
        return False
    inner = left >= 0
    if (left[~inner] != -1).any() or (right[~inner] != -1).any():
        return False
    # Children that come after their parent, each once, leave no way back.
    parents = np.flatnonzero(inner)
    children = np.concatenate([left[inner], right[inner]])
    after = (left[inner] > parents).all() and (right[inner] > parents).all()
    complete = np.array_equal(np.sort(children), np.arange(1, n))
    return bool(after and complete and (split >= 0).all() and (split[inner] < columns).all())
