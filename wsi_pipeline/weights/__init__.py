"""Shipped weights and their cards: what is here, what it may be used for, whether it is intact."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from wsi_pipeline.errors import MissingWeightsError, ModelError

FOLDER = Path(__file__).resolve().parent

SUFFIXES = (".safetensors", ".trees.json.gz")
"""Of weights files: networks and other tensors; XGBoost's trees as JSON."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A weights file and its card.

    Attributes
    ----------
    path
        The file of weights, of one of :data:`SUFFIXES`.
    card
        The card as JSON; ``name``, ``task``, ``sha256`` and ``specimens`` are always there.
    """

    path: Path
    card: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.card["name"])

    @property
    def sha256(self) -> str:
        return str(self.card["sha256"])

    def verify(self) -> None:
        """Raise :class:`ModelError` unless the file's SHA-256 is the card's."""
        try:
            found = file_sha256(self.path)
        except OSError as error:
            raise ModelError(f"{self.path} cannot be read: {error.strerror or error}") from None
        if found != self.sha256:
            raise ModelError(
                f"{self.path}: SHA-256 is {found}, its card says {self.sha256}; the file is damaged or was replaced"
            )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def beside_weights(path: Path, suffix: str) -> Path:
    """Return the file beside weights that has their name and another suffix: their card, say.

    Files of other packages (Cellpose's) may end otherwise than with :data:`SUFFIXES`, or have no suffix.
    """
    for known in SUFFIXES:
        if path.name.endswith(known):
            return path.with_name(path.name.removesuffix(known) + suffix)
    return path.with_suffix(suffix)


def load_weights(path: Path) -> Weights:
    """Return a file of weights with the ``.json`` card beside it.

    Raises
    ------
    MissingWeightsError
        The file or its card is not there.
    ModelError
        The card lacks a required entry.
    """
    card_path = beside_weights(path, ".json")
    for needed in (path, card_path):
        if not needed.is_file():
            raise MissingWeightsError(f"{needed} does not exist; weights need their file and its .json card")
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{card_path}: not a readable card ({error})") from None
    if not isinstance(card, dict):
        raise ModelError(f"{card_path}: not a card, but {type(card).__name__}")
    missing = [key for key in ("name", "task", "sha256", "specimens") if key not in card]
    if missing:
        raise ModelError(f"{card_path}: the card lacks {', '.join(missing)}")
    return Weights(path=path, card=card)


@cache
def shipped_weights() -> dict[str, Weights]:
    """Return all shipped weights by name, sorted."""
    found = (load_weights(_of_card(card)) for card in sorted(FOLDER.glob("*.json")))
    return {weights.name: weights for weights in found}


def _of_card(card: Path) -> Path:
    """Return the weights a card lies beside; where none of them are there, the place of the usual ones."""
    files = [card.with_name(card.stem + suffix) for suffix in SUFFIXES]
    return next((path for path in files if path.is_file()), files[0])


def find_weights(name: str, task: str) -> Weights:
    """Return shipped weights by name, or a user's by the path of the file (:data:`SUFFIXES`).

    Raises
    ------
    MissingWeightsError
        Nothing is known by that name.
    ModelError
        The weights are for another task.
    """
    if name in shipped_weights():
        weights = shipped_weights()[name]
    elif name.endswith(SUFFIXES):
        weights = load_weights(Path(name))
    else:
        known = ", ".join(n for n, w in shipped_weights().items() if w.card["task"] == task)
        raise MissingWeightsError(
            f"model {name!r} is not shipped and is no file of weights ({' or '.join(SUFFIXES)}); "
            f"shipped for {task}: {known or 'none'}"
        )
    if weights.card["task"] != task:
        raise ModelError(f"model {name!r} is for {weights.card['task']}, not for {task}")
    return weights
