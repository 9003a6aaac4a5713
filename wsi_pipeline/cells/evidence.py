"""Why a classifier called a cell what it did: heatmap, nearest labelled cells, place on a map, and how unusual it is.

Everything but the heatmap comes from one file beside the weights, ``<name>.evidence.safetensors``, which
``wsi-pipeline train evidence`` makes. Weights without one type cells as ever; they explain less.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.atomic import write_bytes
from wsi_pipeline.cells.heatmaps import Heatmaps, Method, heatmaps, overlay
from wsi_pipeline.cells.out_of_distribution import CUT_OFF, OutOfDistribution
from wsi_pipeline.cells.reference import NEIGHBOURS, Neighbours, Reference
from wsi_pipeline.errors import DataError, MissingWeightsError, ModelError
from wsi_pipeline.weights import Weights, file_sha256

if TYPE_CHECKING:
    from wsi_pipeline.cells.classifier import CellClassifier, Probabilities

CARD_ENTRY = "evidence"
"""Where a card names the file, its SHA-256, and what was measured of it."""

COLUMNS = ("out_of_distribution", "map_x", "map_y")
"""Columns of ``cells.parquet``, float32: how unusual a cell is, 0 to 1, and its place on the map, 0 to 1."""

_OOD, _REFERENCE = "ood.", "reference."


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What is known about the answers for ``n`` cells.

    Parameters
    ----------
    answered
        ``(n,)``: class of each cell.
    p, embedding
        As the classifier gave them.
    heatmaps
        Where each window speaks for its class.
    overlays
        uint8 ``(n, side, side, 3)``: the windows with their heatmaps.
    neighbours
        Nearest reference cells.
    agreement
        float32 ``(n,)``: share of the neighbours that are of the class answered.
    place
        float32 ``(n, 2)``: x and y on the map.
    out_of_distribution
        float32 ``(n,)``: share of validation cells that are less unusual, 0 to 1.
    unusual
        bool ``(n,)``: whether that is above :data:`~wsi_pipeline.cells.out_of_distribution.CUT_OFF`.
    """

    answered: npt.NDArray[np.str_]
    p: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float16]
    heatmaps: Heatmaps
    overlays: npt.NDArray[np.uint8]
    neighbours: Neighbours
    agreement: npt.NDArray[np.float32]
    place: npt.NDArray[np.float32]
    out_of_distribution: npt.NDArray[np.float32]
    unusual: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.answered)


class Evidence:
    """The evidence of one classifier; made by :meth:`load`.

    Attributes
    ----------
    classifier
        Whose answers are explained.
    reference
        Labelled cells of its training.
    out_of_distribution
        The calibrated score.
    sha256
        SHA-256 of the evidence file.
    about
        The card's entry: what was measured.
    """

    def __init__(
        self, classifier: CellClassifier, reference: Reference, out_of_distribution: OutOfDistribution, sha256: str
    ) -> None:
        self.classifier = classifier
        self.reference = reference
        self.out_of_distribution = out_of_distribution
        self.sha256 = sha256
        self.about: dict[str, Any] = dict(classifier.card.get(CARD_ENTRY, {}))

    @classmethod
    def of(cls, classifier: CellClassifier) -> Evidence | None:
        """Return the evidence of a classifier, or None where its card names none; errors as of :meth:`load`."""
        return None if evidence_path(classifier.weights) is None else cls.load(classifier)

    @classmethod
    def load(cls, classifier: CellClassifier) -> Evidence:
        """Load the evidence file of a classifier.

        Raises
        ------
        MissingWeightsError
            The card names no evidence file, or it is not there.
        ModelError
            The file is damaged, or of other weights.
        """
        path = evidence_path(classifier.weights)
        if path is None:
            raise MissingWeightsError(
                f"the card of {classifier.weights.path} names no evidence file; make it with "
                f"`wsi-pipeline train evidence --weights {classifier.weights.path}`"
            )
        sha256 = verify_evidence(classifier.weights)
        reference, score = read_evidence(path, classifier.sha256, classifier.embedding_dim)
        return cls(classifier, reference, score, sha256)

    def columns(self, answer: Probabilities) -> dict[str, npt.NDArray[np.float32]]:
        """Return :data:`COLUMNS` of a classifier's answers, each ``(n,)``."""
        place = self.reference.places(answer.embedding)
        unlike = self.out_of_distribution.percentile(answer.p, answer.embedding)
        return dict(zip(COLUMNS, (unlike, place[:, 0], place[:, 1]), strict=True))

    def explain(
        self,
        crops: npt.NDArray[np.uint8],
        background: npt.NDArray[np.uint8],
        *,
        classes: str | Sequence[str] | None = None,
        method: Method | None = None,
        k: int = NEIGHBOURS,
    ) -> Explanation:
        """Type windows and explain the answers.

        Parameters
        ----------
        crops, background
            As :meth:`~wsi_pipeline.cells.classifier.CellClassifier.predict` takes them.
        classes
            What the heatmaps are for: one class, or one for each window; None takes the answers.
        method
            Of the heatmaps; None takes what suits the classifier.
        k
            Number of neighbours.

        Raises
        ------
        DataError
            The windows do not suit the classifier, a class is unknown, or ``k`` is too large.
        ModelError
            The heatmap method does not suit the classifier.
        """
        answer = self.classifier.predict(crops, background)
        answered = np.array(self.classifier.classes)[answer.p.argmax(axis=1)]
        maps = heatmaps(self.classifier, crops, background, answered.tolist() if classes is None else classes,
                        method=method)  # fmt: skip
        near = self.reference.neighbours(answer.embedding, k)
        unlike = self.out_of_distribution.percentile(answer.p, answer.embedding)
        return Explanation(
            answered=answered,
            p=answer.p,
            embedding=answer.embedding,
            heatmaps=maps,
            overlays=overlay(crops, maps.values),
            neighbours=near,
            agreement=near.agreement(answered),
            place=self.reference.places(answer.embedding),
            out_of_distribution=unlike,
            unusual=unlike > CUT_OFF,
        )


def evidence_name(weights: Path) -> str:
    """Return the name of the evidence file of weights."""
    return f"{weights.stem}.evidence.safetensors"


def evidence_path(weights: Weights) -> Path | None:
    """Return where the evidence file of weights is; None where their card names none."""
    entry = weights.card.get(CARD_ENTRY)
    return weights.path.with_name(str(entry["file"])) if isinstance(entry, dict) and "file" in entry else None


def verify_evidence(weights: Weights) -> str:
    """Return the SHA-256 of the evidence file that a card names; empty where it names none.

    Raises
    ------
    MissingWeightsError
        The file is not there.
    ModelError
        Its SHA-256 is not that of the card.
    """
    path = evidence_path(weights)
    if path is None:
        return ""
    if not path.is_file():
        raise MissingWeightsError(
            f"{path} does not exist, though the card of {weights.path} names it; copy it there, or make it again with "
            f"`wsi-pipeline train evidence --weights {weights.path}`"
        )
    found, said = file_sha256(path), weights.card[CARD_ENTRY].get("sha256")
    if found != said:
        raise ModelError(f"{path}: SHA-256 is {found}, the card says {said}; the file is damaged or was replaced")
    return found


def columns_of(weights: Weights) -> tuple[str, ...]:
    """Return :data:`COLUMNS` where the card of weights names an evidence file, else none."""
    return () if evidence_path(weights) is None else COLUMNS


def write_evidence(path: Path, reference: Reference, score: OutOfDistribution, weights_sha256: str) -> None:
    """Write an evidence file, atomically; equal content gives equal bytes."""
    from safetensors.numpy import save

    tensors = {_REFERENCE + name: value for name, value in reference.to_tensors().items()}
    tensors |= {_OOD + name: value for name, value in score.to_tensors().items()}
    # One entry: of several, safetensors writes the order of a hash table.
    about = {"weights_sha256": weights_sha256, "classes": reference.classes, "sources": reference.sources}
    whole = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    write_bytes(path, save(whole, metadata={"about": json.dumps(about, sort_keys=True)}))


def read_evidence(path: Path, weights_sha256: str, embedding_dim: int) -> tuple[Reference, OutOfDistribution]:
    """Read an evidence file.

    Raises
    ------
    ModelError
        The file cannot be read, or is of other weights than those of this SHA-256.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {})["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        reference = Reference.of_tensors(
            {name.removeprefix(_REFERENCE): t for name, t in tensors.items() if name.startswith(_REFERENCE)},
            tuple(about["classes"]),
            tuple(about["sources"]),
        )
        score = OutOfDistribution.of_tensors(
            {name.removeprefix(_OOD): t for name, t in tensors.items() if name.startswith(_OOD)}
        )
    except (OSError, SafetensorError, KeyError, ValueError, DataError) as error:
        raise ModelError(f"{path} is no evidence file of this version: {error}") from None
    if about.get("weights_sha256") != weights_sha256 or reference.embedding.shape[1] != embedding_dim:
        raise ModelError(
            f"{path} was made for weights of SHA-256 {about.get('weights_sha256')}, not {weights_sha256}; make it "
            "again with `wsi-pipeline train evidence`"
        )
    return reference, score
