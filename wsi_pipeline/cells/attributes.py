"""A second head for attributes: independent sigmoids on the embedding that the class head reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from wsi_pipeline.cells.backbones import Network
from wsi_pipeline.errors import ModelError

PREFIX = "attributes."
"""Of the head's tensors in a file of weights, beside those of the network."""


class AttributedNetwork(nn.Module):
    """A network of classes and a linear layer of attributes on its embedding.

    Parameters
    ----------
    network
        Types cells; its tensors keep their names in a file of weights.
    n_attributes
        Outputs of the second head.
    seed
        Of the head's first weights; they come from a generator of their own.
    """

    def __init__(self, network: Network, n_attributes: int, seed: int) -> None:
        super().__init__()
        self.network = network
        self.attributes = nn.Linear(network.spec.embedding_dim, n_attributes)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.attributes.weight.normal_(0.0, network.spec.embedding_dim**-0.5, generator=generator)
            self.attributes.bias.zero_()

    @property
    def spec(self) -> Any:
        """That of the network of classes."""
        return self.network.spec

    @property
    def head(self) -> nn.Module:
        """The class head."""
        return self.network.head

    def embed(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return the embedding."""
        return self.network.embed(rgb)

    def forward(self, rgb: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits of classes and of attributes."""
        features = self.network.dropout(self.network.embed(rgb))
        return self.network.head(features), self.attributes(features)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the tensors as a file of weights names them."""
        own = {f"{PREFIX}{key}": value for key, value in self.attributes.state_dict().items()}
        return {**self.network.state_dict(), **own}


def masked_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean binary cross-entropy over the known labels; 0 where none is known.

    Parameters
    ----------
    logits
        ``(n, k)``.
    target
        ``(n, k)``: 1 present, 0 absent, negative unknown. What is unknown has no gradient.
    """
    known = target >= 0
    if not known.any():
        return logits.sum() * 0
    return F.binary_cross_entropy_with_logits(logits[known], target[known].to(logits.dtype))


@dataclass(frozen=True, kw_only=True)
class AttributeHead:
    """The attributes of a trained classifier.

    Attributes
    ----------
    codes
        Of the attributes.
    applies
        bool ``(classes, attributes)``: whether a cell of the class can have the attribute.
    weight, bias
        ``(attributes, embedding_dim)`` and ``(attributes,)``.
    """

    codes: tuple[str, ...]
    applies: npt.NDArray[np.bool_]
    weight: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def of_card(
        cls, entries: Sequence[Mapping[str, Any]], classes: Sequence[str], tensors: Mapping[str, torch.Tensor],
        embedding_dim: int, where: str,
    ) -> AttributeHead:  # fmt: skip
        """Return the head that a card and its tensors describe.

        Raises
        ------
        ModelError
            They do not fit each other.
        """
        try:
            codes = tuple(str(entry["code"]) for entry in entries)
            applies = np.array([[c in entry["classes"] for entry in entries] for c in classes], bool)
        except (TypeError, KeyError) as error:
            raise ModelError(f"{where}: attributes need code and classes ({error})") from None
        weight, bias = tensors.get(f"{PREFIX}weight"), tensors.get(f"{PREFIX}bias")
        if weight is None or bias is None or weight.shape != (len(codes), embedding_dim) or bias.shape != (len(codes),):
            raise ModelError(f"{where}: the card has {len(codes)} attributes, the weights no such head")
        return cls(codes=codes, applies=applies, weight=weight, bias=bias)

    def probabilities(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return ``(n, attributes)`` of the embedding, averaged over views as the class logits are."""
        return torch.sigmoid(F.linear(embedding.float(), self.weight, self.bias))

    def to(self, device: str) -> AttributeHead:
        """Return the head on a device."""
        return AttributeHead(
            codes=self.codes, applies=self.applies, weight=self.weight.to(device), bias=self.bias.to(device)
        )
