"""Weights to start from: a compact network whose layers are kept, and whose head is kept as far as it fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wsi_pipeline.config import Specimen
from wsi_pipeline.errors import ModelError
from wsi_pipeline.segmentation.networks import WIDTHS, CompactFlowNet
from wsi_pipeline.weights import Weights, find_weights

_FLOW_AND_CELL = 3
"""Rows of the head before the kinds: two of the flow, one of the cell probability."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A compact network to fine-tune: its checked weights, tensors and kinds."""

    weights: Weights
    tensors: dict[str, Tensor]
    kinds: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.weights.name

    @property
    def sha256(self) -> str:
        return self.weights.sha256

    @property
    def specimens(self) -> tuple[Specimen, ...]:
        return tuple(self.weights.card["specimens"])

    def check_mpp(self, mpp: float, specimens: Sequence[Specimen]) -> None:
        """Raise :class:`ModelError` unless the network was made for this resolution."""
        own = float(self.weights.card.get("mpp", mpp))
        if own != mpp:
            raise ModelError(
                f"--start-from {self.weights.name} works at {own:g} um per pixel ({', '.join(self.specimens)}), "
                f"{', '.join(specimens)} at {mpp:g}; start from a network of the same resolution"
            )

    def tensors_for(self, kinds: tuple[str, ...]) -> dict[str, Tensor]:
        """Return the tensors of a network with ``kinds``.

        All layers before the head, its flow and cell rows, and the rows of kinds that both networks have are kept;
        rows of new kinds start at zero, that is, at equal chances.
        """
        initial = dict(self.tensors)
        for name in ("head.weight", "head.bias"):
            old = self.tensors[name]
            new = torch.zeros((_FLOW_AND_CELL + len(kinds), *old.shape[1:]), dtype=old.dtype)
            new[:_FLOW_AND_CELL] = old[:_FLOW_AND_CELL]
            for row, kind in enumerate(kinds, start=_FLOW_AND_CELL):
                if kind in self.kinds:
                    new[row] = old[_FLOW_AND_CELL + self.kinds.index(kind)]
            initial[name] = new
        return initial

    def sentence(self, kinds: tuple[str, ...]) -> str:
        """Return what is kept, for people."""
        new = [kind for kind in kinds if kind not in self.kinds]
        lost = [kind for kind in self.kinds if kind not in kinds]
        parts = [f"starting from {self.weights.name}"]
        parts += [f"{', '.join(new)} is learnt anew"] if new else []
        parts += [f"{', '.join(lost)} is no longer told apart"] if lost else []
        return "; ".join(parts)


def load_start(name: str) -> Start:
    """Load the compact network to start from, by name or by the path of its ``.safetensors`` file.

    Raises
    ------
    ModelError
        It is missing, damaged, no compact network, or one of other widths.
    """
    weights = find_weights(name, "segmentation")
    weights.verify()
    kinds = tuple(weights.card.get("kinds", ()))
    if tuple(weights.card.get("widths", ())) != WIDTHS or not kinds:
        raise ModelError(f"--start-from {name}: only compact flow networks of widths {WIDTHS} can be fine-tuned")
    try:
        tensors = load_file(weights.path)
        CompactFlowNet(len(kinds)).load_state_dict(tensors)
    except (RuntimeError, SafetensorError) as error:
        raise ModelError(f"{weights.path}: the weights do not fit the network its card describes ({error})") from None
    return Start(weights=weights, tensors=tensors, kinds=kinds)
