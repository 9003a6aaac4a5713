"""Slide-level models as files: ``NAME.slides.safetensors`` and the card beside it. Never a pickle.

The tensors are the arrays of the members, those of member ``i`` named ``member.<i>.<array>``, ``unusual.<array>``, and
``known.<array>`` on whom it was trained; the header holds the rest as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.atomic import write_bytes
from wsi_pipeline.errors import ConfigError, DataError, ModelError
from wsi_pipeline.predictions.slide_models.calibration import ConformalSets, Scaling
from wsi_pipeline.predictions.slide_models.encoder_member import EncoderMember
from wsi_pipeline.predictions.slide_models.ensemble import Combination, SlideEnsemble
from wsi_pipeline.predictions.slide_models.known import Known
from wsi_pipeline.predictions.slide_models.linear import LinearMember
from wsi_pipeline.predictions.slide_models.member import Member
from wsi_pipeline.predictions.slide_models.networks import AttentionMember, MorphotypeMember
from wsi_pipeline.predictions.slide_models.trees import BoosterMember, TreeMember
from wsi_pipeline.predictions.slide_models.unusual import Unusual
from wsi_pipeline.predictions.tasks.task import read_task
from wsi_pipeline.weights import Weights, beside_weights, find_weights

TASK = "slides"
"""Of the cards."""
FORMAT = "wsi-pipeline slide-model 1"
SUFFIX = ".slides.safetensors"
KINDS: Mapping[str, Any] = {
    own.kind: own for own in (LinearMember, AttentionMember, MorphotypeMember, BoosterMember, TreeMember, EncoderMember)
}
"""Kinds of members by their names, to be read again."""

_CARD = ("classifier", "reads_embedding", "simulated", "trained_on", "limits")
_CLASSIFIER = {"name", "sha256", "classes"}


def model_path(folder: Path, name: str) -> Path:
    """Return where a model's file lies; its cards lie beside it."""
    return folder / f"{name}{SUFFIX}"


def map_file(path: Path) -> Path:
    """Return where the cohort map of a model of trephines lies, beside its file."""
    return beside_weights(path, ".map.json")


def save_slide_model(model: SlideEnsemble, path: Path) -> None:
    """Write the file of a model, atomically; the same model gives the same bytes."""
    from safetensors.numpy import save

    tensors: dict[str, npt.NDArray[Any]] = {f"unusual.{k}": v for k, v in model.unusual.tensors().items()}
    for i, member in enumerate(model.members):
        tensors |= {f"member.{i}.{key}": value for key, value in member.tensors().items()}
    if model.known is not None:
        tensors |= {f"known.{key}": value for key, value in model.known.tensors().items()}
    header = {
        "format": FORMAT,
        "task": model.task.model_dump(mode="json"),
        "members": [{"kind": m.kind, "name": m.name, "settings": m.settings()} for m in model.members],
        "scalings": {name: own.to_json() for name, own in model.scalings.items()},
        "combinations": {
            key: {"weights": dict(own.weights), "scaling": own.scaling.to_json(), "sets": own.sets.to_json()}
            for key, own in model.combinations.items()
        },
        "optional": list(model.optional),
        "limits": model.unusual.limits(),
    }
    content = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    write_bytes(path, save(content, metadata={"model": json.dumps(header, sort_keys=True)}))


def load_slide_model(name_or_file: str | Path) -> SlideEnsemble:
    """Return a shipped model by name, or a user's by the path of its ``.slides.safetensors``.

    Raises
    ------
    MissingWeightsError
        There is no such model.
    ModelError
        The file is damaged, was replaced, or is something else.
    """
    weights = find_weights(str(name_or_file), TASK)
    weights.verify()
    missing = [key for key in _CARD if key not in weights.card]
    if missing:
        raise ModelError(f"{weights.path}: its card lacks {', '.join(missing)}")
    classifier = weights.card["classifier"]
    if not isinstance(classifier, dict) or not set(classifier) >= _CLASSIFIER:
        raise ModelError(f"{weights.path}: its card does not say the classifier ({', '.join(sorted(_CLASSIFIER))})")
    return _read(weights)


def _read(weights: Weights) -> SlideEnsemble:
    from safetensors import SafetensorError, safe_open

    path = weights.path
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})["model"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - the file is no mapping
        if header["format"] != FORMAT:
            raise ModelError(f"format {str(header['format'])[:60]!r}, not {FORMAT!r}")
        task = read_task(header["task"], "its task")
        k = len(task.codes)
        members = tuple(_member(i, own, tensors, k) for i, own in enumerate(header["members"]))
        scalings = {str(name): Scaling.from_json(own, k) for name, own in header["scalings"].items()}
        names = {m.name for m in members}
        combinations = {str(key): _combination(own, k) for key, own in header["combinations"].items()}
        told = {name for own in combinations.values() for name in own.weights}
        if not members or set(scalings) != names or not told <= names or "" not in combinations:
            raise ModelError("its members and their weights do not fit together")
        return SlideEnsemble(
            task=task,
            card=weights.card,
            members=members,
            scalings=scalings,
            combinations=combinations,
            optional=tuple(map(str, header["optional"])),
            unusual=Unusual.load(header["limits"], _below("unusual.", tensors)),
            known=Known.load(_below("known.", tensors)),
        )
    except (ModelError, ConfigError, DataError) as error:
        raise ModelError(f"{path}: {error}") from None
    except (SafetensorError, OSError, RecursionError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: no slide-level model ({type(error).__name__}: {str(error)[:200]})") from None


def _member(i: int, own: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]], n_classes: int) -> Member:
    kind = KINDS.get(own["kind"])
    if kind is None:
        raise ModelError(f"member {i} is of kind {str(own['kind'])[:40]!r}; known are {', '.join(KINDS)}")
    found: Member = kind.load(str(own["name"]), own["settings"], _below(f"member.{i}.", tensors), n_classes)
    return found


def _combination(own: Mapping[str, Any], n_classes: int) -> Combination:
    weights = {str(name): float(w) for name, w in own["weights"].items()}
    if not weights or any(not 0 <= w <= 1 for w in weights.values()) or abs(sum(weights.values()) - 1) > 1e-6:
        raise ModelError("the weights of its members are damaged")
    return Combination(
        weights=weights,
        scaling=Scaling.from_json(own["scaling"], n_classes),
        sets=ConformalSets.from_json(own["sets"], n_classes),
    )


def _below(prefix: str, tensors: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
