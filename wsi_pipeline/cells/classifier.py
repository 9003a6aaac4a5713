"""Typing single cells: a shipped or user-made classifier, loaded once, applied in batches of one shape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import ConfigError, DataError, DeviceError, ModelError
from wsi_pipeline.weights import Weights, find_weights

if TYPE_CHECKING:
    import torch

    from wsi_pipeline.cells.attributes import AttributeHead
    from wsi_pipeline.cells.backbones import Network
    from wsi_pipeline.cells.classical import FeatureModel
    from wsi_pipeline.cells.preparation import Preparation

TASK = "cells"
"""Task in the card of a cell classifier's weights."""

_CARD_KEYS = ("classes", "mpp", "window_px", "taxonomy", "network", "temperature")


@dataclass(frozen=True, kw_only=True)
class Probabilities:
    """Answers for ``n`` cells.

    Parameters
    ----------
    p
        float32 ``(n, classes)``, calibrated on the validation split; rows add up to 1.
    embedding
        float16 ``(n, embedding_dim)``.
    attributes
        float32 ``(n, attributes)``, each by itself from 0 to 1, not calibrated; None without a head for them.
    """

    p: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float16]
    attributes: npt.NDArray[np.float32] | None = None


class CellClassifier:
    """A cell classifier and what its card says; made by :func:`load_classifier`.

    Attributes
    ----------
    weights
        The file and its card.
    name, sha256
        Name of the weights and the SHA-256 of their file.
    classes
        Class codes in the order of the probabilities.
    taxonomy
        Name of the taxonomy the classes belong to.
    mpp, window_px
        Resolution (um per pixel) and side of the windows it takes, the cell's middle in the middle.
    specimens
        Specimens it may be used on.
    embedding_dim
        Length of an embedding.
    attributes
        Codes of the attributes it answers besides; empty without any.
    attribute_classes
        bool ``(classes, attributes)``: whether a cell of the class can have the attribute.
    card
        The whole card.
    """

    def __init__(
        self,
        weights: Weights,
        network: Network | FeatureModel,
        preparation: Preparation,
        device: str,
        attributes: AttributeHead | None = None,
    ) -> None:
        card = weights.card
        self.weights = weights
        self.name = weights.name
        self.sha256 = weights.sha256
        self.card: dict[str, Any] = card
        self.classes: tuple[str, ...] = tuple(card["classes"])
        self.taxonomy: str = card["taxonomy"]
        self.mpp: float = float(card["mpp"])
        self.window_px: int = int(card["window_px"])
        self.specimens: tuple[str, ...] = tuple(card["specimens"])
        self.embedding_dim: int = network.spec.embedding_dim
        self.device = device
        self._temperature = float(card["temperature"])
        self._preparation = preparation
        self._network = network
        self._attributes = attributes
        self.attributes: tuple[str, ...] = () if attributes is None else attributes.codes
        self.attribute_classes: npt.NDArray[np.bool_] = (
            np.zeros((len(self.classes), 0), bool) if attributes is None else attributes.applies
        )

    @property
    def network(self) -> Network | FeatureModel:
        """The model itself, folded for inference."""
        return self._network

    @property
    def preparation(self) -> Preparation:
        """What happens to a window before and after the network."""
        return self._preparation

    def predict(
        self, crops: npt.NDArray[np.uint8], background: npt.NDArray[np.uint8], *, batch_size: int = 64
    ) -> Probabilities:
        """Type the cell in the middle of each window.

        Parameters
        ----------
        crops
            uint8 ``(n, window_px, window_px, 3)`` at ``mpp``; neighbours need no masking.
        background
            uint8 background colour for the white balance: ``(3,)`` of the slide, or ``(n, 3)`` of each window.
        batch_size
            Windows per batch. All batches have this shape, the last one padded, since a network's result may
            depend on the shape in the last bit.

        Raises
        ------
        DataError
            The arrays do not have these shapes or are not uint8.
        """
        import torch

        wanted = (self.window_px, self.window_px, 3)
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != wanted:
            raise DataError(
                f"{self.name} takes uint8 windows (n, {', '.join(map(str, wanted))}); found {crops.dtype} {crops.shape}"
            )
        n = len(crops)
        if background.dtype != np.uint8 or background.shape not in ((3,), (n, 3)):
            raise DataError(
                f"the background must be uint8 (3,) or ({n}, 3); found {background.dtype} {background.shape}"
            )
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, found {batch_size}")
        light = np.broadcast_to(background, (n, 3))
        p = np.zeros((n, len(self.classes)), dtype=np.float32)
        embedding = np.zeros((n, self.embedding_dim), dtype=np.float16)
        present = None if self._attributes is None else np.zeros((n, len(self.attributes)), dtype=np.float32)
        padded = np.empty((batch_size, *wanted), dtype=np.uint8)
        shade = np.empty((batch_size, 3), dtype=np.uint8)
        with torch.inference_mode():
            for start in range(0, n, batch_size):
                stop = min(start + batch_size, n)
                padded[: stop - start], shade[: stop - start] = crops[start:stop], light[start:stop]
                padded[stop - start :], shade[stop - start :] = 255, 255
                features, logits = self._features_and_logits(padded, shade)
                p[start:stop] = torch.softmax(logits / self._temperature, dim=1)[: stop - start].cpu().numpy()
                embedding[start:stop] = features[: stop - start].to(torch.float16).cpu().numpy()
                if self._attributes is not None and present is not None:
                    present[start:stop] = self._attributes.probabilities(features)[: stop - start].cpu().numpy()
        return Probabilities(p=p, embedding=embedding, attributes=present)

    def told_attributes(self, answer: Probabilities) -> dict[str, npt.NDArray[np.float32]]:
        """Return the probabilities of attributes by code, NaN where a cell of the answered class cannot have it."""
        if answer.attributes is None:
            return {}
        told = np.where(self.attribute_classes[answer.p.argmax(axis=1)], answer.attributes, np.float32(np.nan))
        return {code: told[:, i] for i, code in enumerate(self.attributes)}

    def _features_and_logits(
        self, windows: npt.NDArray[np.uint8], background: npt.NDArray[np.uint8]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        from wsi_pipeline.cells.classical import FeatureModel

        if isinstance(self._network, FeatureModel):
            return self._network.features_and_logits(windows, background)
        images, light = torch.from_numpy(windows).to(self.device), torch.from_numpy(background).to(self.device)
        return self._preparation.look(self._network, self._preparation.windows(images, light))


def load_classifier(name_or_path: str | Path, device: str = "cpu") -> CellClassifier:
    """Load a classifier by the name of shipped weights or the path of a ``.safetensors`` file with its card.

    Parameters
    ----------
    name_or_path
        ``pbc-blast``, or a file written by ``wsi-pipeline train cells``, of whatever ``--model``.
    device
        ``cpu`` or a CUDA device; never replaced by another one.

    Raises
    ------
    MissingWeightsError
        There are no such weights.
    ModelError
        The weights are damaged, for another task, or do not fit their card.
    DeviceError
        The device is not there.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from wsi_pipeline.cells.attributes import PREFIX, AttributeHead
    from wsi_pipeline.cells.backbones import build_network
    from wsi_pipeline.cells.classical import KINDS, load_feature_model
    from wsi_pipeline.cells.preparation import Preparation

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise DeviceError(f"device {device} was asked for, but torch sees no CUDA device; use cpu")
    weights = find_weights(str(name_or_path), TASK)
    weights.verify()
    missing = [key for key in _CARD_KEYS if key not in weights.card]
    if missing:
        raise ModelError(f"{weights.path.with_suffix('.json')}: the card lacks {', '.join(missing)}")
    description = weights.card["network"]
    if not isinstance(description, dict):
        raise ModelError(f"{weights.path.with_suffix('.json')}: network is no description of a network")
    try:
        preparation = Preparation.of_card(weights.card)
    except ConfigError as error:
        raise ModelError(f"{weights.path.with_suffix('.json')}: {error}") from None
    if description.get("kind") in KINDS:
        return CellClassifier(weights, load_feature_model(weights, device), preparation, device)
    try:
        network = build_network(description)
        tensors = load_file(weights.path)
        second = {name: tensors.pop(name) for name in list(tensors) if name.startswith(PREFIX)}
        network.load_state_dict(tensors)
    except (TypeError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if isinstance(error, ModelError):
            raise ModelError(f"{weights.path.with_suffix('.json')}: {error}") from None
        raise ModelError(f"{weights.path} does not fit the network its card describes: {error}") from None
    if network.spec.n_classes != len(weights.card["classes"]):
        raise ModelError(
            f"{weights.path} has {network.spec.n_classes} outputs, its card {len(weights.card['classes'])} classes"
        )
    entries = weights.card.get("attributes") or []
    if bool(second) != bool(entries):
        raise ModelError(f"{weights.path}: weights and card disagree on whether it has attributes")
    where = str(weights.path.with_suffix(".json"))
    head = (
        AttributeHead.of_card(entries, weights.card["classes"], second, network.spec.embedding_dim, where).to(device)
        if entries
        else None
    )
    network.fold()
    return CellClassifier(weights, network.to(device), preparation, device, head)
