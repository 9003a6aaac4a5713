"""Segmentation models behind one interface: the shipped compact networks and Cellpose's own.

Every model maps a batch of normalised RGB tiles to Cellpose flows, a cell-probability logit and, where it knows
them, kind logits. Nothing is downloaded here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from wsi_pipeline.config import Specimen
from wsi_pipeline.errors import MissingWeightsError, ModelError
from wsi_pipeline.segmentation.batching import convolution_tile_bytes, model_bytes
from wsi_pipeline.segmentation.cellpose_files import CELLPOSE_NAMES, cellpose_weights, find_cellpose_file
from wsi_pipeline.segmentation.cellpose_model import CellposeModel
from wsi_pipeline.segmentation.precision import Precision, RequestedPrecision, dtype_of, resolve_precision
from wsi_pipeline.weights import Weights, find_weights, shipped_weights

__all__ = [
    "CELLPOSE_NAMES", "CellposeModel", "CompactModel", "FlowModel", "cellpose_weights", "check_model", "load_model",
]  # fmt: skip

if TYPE_CHECKING:
    from torch import Tensor

FloatTiles = npt.NDArray[np.float32]


class FlowModel(Protocol):
    """What the engine needs of a network.

    Attributes
    ----------
    name, sha256
        For the provenance.
    device
        Where it runs, ``cpu`` or ``cuda``.
    tile_px, overlap_px
        The tile lattice it works on.
    kinds
        Names of the kind channels, background first; empty when the model knows no kinds.
    precision
        What it runs in.
    model_bytes, tile_bytes
        Memory of its weights, and an estimate of what one tile needs on its way.
    """

    name: str
    sha256: str
    device: str
    tile_px: int
    overlap_px: int
    kinds: tuple[str, ...]
    precision: Precision
    model_bytes: int
    tile_bytes: int

    def predict(self, tiles: FloatTiles) -> FloatTiles:
        """Map ``(n, 3, t, t)`` to ``(n, 3 + k, t, t)``: 5 x flow y, 5 x flow x, cell logit, kind logits."""
        ...

    def predict_on_device(self, tiles: FloatTiles) -> Tensor:
        """As :meth:`predict`, but the float32 output stays on the device."""
        ...


class CompactModel:
    """A compact flow network with its card; in bf16 it is bit-identical over thread counts, in fp32 it is not."""

    def __init__(self, weights: Weights, device: str, *, precision: Precision) -> None:
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from wsi_pipeline.segmentation.networks import CompactFlowNet, fold_batch_norms

        weights.verify()
        card = weights.card
        self.name, self.sha256 = weights.name, weights.sha256
        missing = [key for key in ("kinds", "tile_px", "overlap_px", "widths") if key not in card]
        if missing:
            raise ModelError(f"{weights.path.with_suffix('.json')}: the card lacks {', '.join(missing)}")
        self.kinds = tuple(card["kinds"])
        self.tile_px, self.overlap_px = int(card["tile_px"]), int(card["overlap_px"])
        self.widths = tuple(card["widths"])
        network = CompactFlowNet(len(self.kinds), self.widths)
        try:
            network.load_state_dict(load_file(weights.path))
        except (RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"{weights.path}: the weights do not fit the network its card describes ({error})"
            ) from None
        network = fold_batch_norms(network.eval())
        self.precision = precision
        self._dtype = dtype_of(precision)
        self._network: Any = network.to(device, self._dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = device
        self.model_bytes = model_bytes(self._network)
        self.tile_bytes = convolution_tile_bytes(
            side=self.tile_px, width=card["widths"][0], channels=3 + len(self.kinds), itemsize=self._dtype.itemsize
        )

    def predict(self, tiles: FloatTiles) -> FloatTiles:
        return self.predict_on_device(tiles).cpu().numpy()

    def predict_on_device(self, tiles: FloatTiles) -> Tensor:
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(tiles).to(self.device, self._dtype, memory_format=torch.channels_last)
            output: Tensor = self._network(batch).float()
        return output

    def pooled(self, tile: FloatTiles, mask: npt.NDArray[np.bool_], depths: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the network's features on the way down, averaged over a mask, one depth after the other.

        Parameters
        ----------
        tile
            ``(1, 3, t, t)`` normalised.
        mask
            ``(t, t)`` with at least one pixel.
        """
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(tile).to(self.device, self._dtype, memory_format=torch.channels_last)
            features = [self._network.encode(batch)[depth].float().cpu().numpy()[0] for depth in depths]
        means = []
        for values in features:
            step = mask.shape[0] // values.shape[1]
            share = mask.reshape(values.shape[1], step, values.shape[2], step).mean(axis=(1, 3), dtype=np.float64)
            means.append((values.astype(np.float64) * share).sum(axis=(1, 2)) / share.sum())
        return np.concatenate(means).astype(np.float32)


def check_model(name: str, specimen: Specimen) -> None:
    """Refuse a shipped model on a specimen its card does not declare.

    Raises
    ------
    ModelError
        With the specimens the model was made for.
    """
    weights = shipped_weights().get(name)
    if weights is not None and specimen not in weights.card["specimens"]:
        raise ModelError(
            f"model {name} was made for {', '.join(weights.card['specimens'])}, not for {specimen}; "
            "choose another segmentation.model"
        )


def load_model(name: str, *, specimen: Specimen, device: str, precision: RequestedPrecision = "auto") -> FlowModel:
    """Load a segmentation model by name, or from a path; nothing is ever downloaded.

    Parameters
    ----------
    name
        A shipped compact network, a model of the ``cellpose`` package, the name of a file in its models folder, or
        the path of a ``.safetensors`` file with its card or of a Cellpose 4 weights file.
    specimen
        Checked against what the model declares.
    device
        ``cpu`` or ``cuda``.
    precision
        ``auto`` is bf16 where the device computes in it, else fp32.

    Raises
    ------
    MissingWeightsError
        The weights are not on this machine.
    ModelError
        They are damaged, of another network, or not for this specimen.
    """
    check_model(name, specimen)
    resolved = resolve_precision(precision, device)
    if name not in shipped_weights() and (path := find_cellpose_file(name)) is not None:
        shown = name if name in CELLPOSE_NAMES else path.name
        return CellposeModel(shown, path, device, precision=resolved, specimen=specimen)
    weights = find_segmentation_weights(name)
    if specimen not in weights.card["specimens"]:
        raise ModelError(f"{weights.path} declares {', '.join(weights.card['specimens'])}, not {specimen}")
    return CompactModel(weights, device, precision=resolved)


def find_segmentation_weights(name: str) -> Weights:
    """Return the weights of a compact network; where nothing is known by that name, say what is.

    Raises
    ------
    ModelError, MissingWeightsError
        As of :func:`wsi_pipeline.weights.find_weights`.
    """
    try:
        return find_weights(name, "segmentation")
    except MissingWeightsError as error:
        if Path(name).suffix == ".safetensors":
            raise
        raise MissingWeightsError(f"{error}; Cellpose models: {', '.join(CELLPOSE_NAMES)}") from None
