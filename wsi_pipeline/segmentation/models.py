"""Segmentation models behind one interface: the shipped compact networks and Cellpose's own.

Every model maps a batch of normalised RGB tiles to Cellpose flows, a cell-probability logit and, where it knows
them, kind logits. Nothing is downloaded here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from wsi_pipeline.config import Specimen
from wsi_pipeline.errors import MissingWeightsError, ModelError
from wsi_pipeline.weights import Weights, file_sha256, find_weights, shipped_weights

FloatTiles = npt.NDArray[np.float32]

CELLPOSE_NAMES = ("cpsam_v2", "cpsam", "cpdino", "cpdino_vitb", "cpdino_vitl")
"""Models of the ``cellpose`` package, found in ``CELLPOSE_LOCAL_MODELS_PATH`` or its own models folder."""


class FlowModel(Protocol):
    """What the engine needs of a network.

    Attributes
    ----------
    name, sha256
        For the provenance.
    tile_px, overlap_px
        The tile lattice it works on.
    kinds
        Names of the kind channels, background first; empty when the model knows no kinds.
    """

    name: str
    sha256: str
    tile_px: int
    overlap_px: int
    kinds: tuple[str, ...]

    def predict(self, tiles: FloatTiles) -> FloatTiles:
        """Map ``(n, 3, t, t)`` to ``(n, 3 + k, t, t)``: 5 x flow y, 5 x flow x, cell logit, kind logits."""
        ...


class CompactModel:
    """A compact flow network with its card; runs in bfloat16, which is bit-identical over thread counts."""

    def __init__(self, weights: Weights, device: str) -> None:
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
        network = CompactFlowNet(len(self.kinds), tuple(card["widths"]))
        try:
            network.load_state_dict(load_file(weights.path))
        except (RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"{weights.path}: the weights do not fit the network its card describes ({error})"
            ) from None
        network = fold_batch_norms(network.eval())
        self._network: Any = network.to(device, torch.bfloat16).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device

    def predict(self, tiles: FloatTiles) -> FloatTiles:
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(tiles).to(self._device, torch.bfloat16, memory_format=torch.channels_last)
            return self._network(batch).float().cpu().numpy()


class CellposeModel:
    """A model of the ``cellpose`` package; its weights were trained on data that is not for commercial use."""

    kinds: tuple[str, ...] = ()
    overlap_px = 32

    def __init__(self, name: str, path: Path, device: str) -> None:
        import torch
        from cellpose import models

        try:
            wrapped = models.CellposeModel(pretrained_model=str(path), device=torch.device(device))
        except Exception as error:  # noqa: BLE001  whatever cellpose raises is about this file
            raise ModelError(f"{path}: cellpose cannot load these weights ({error})") from None
        self.name = name
        self.sha256 = file_sha256(path)
        self.tile_px = 384 if wrapped.backbone.startswith("dino") else 256
        self._network: Any = wrapped.net.eval()

    def predict(self, tiles: FloatTiles) -> FloatTiles:
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(tiles).to(self._network.device, self._network.dtype)
            return self._network(batch)[0].float().cpu().numpy()


def cellpose_weights(name: str) -> Path:
    """Return the local file of a ``cellpose`` model.

    Raises
    ------
    MissingWeightsError
        It is in none of the folders; the message lists them.
    """
    folders = [Path.home() / ".cellpose" / "models"]
    if local := os.environ.get("CELLPOSE_LOCAL_MODELS_PATH"):
        folders.insert(0, Path(local))
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise MissingWeightsError(
        f"cellpose model {name} is not in {' or '.join(map(str, folders))}; put its weights there or set "
        "CELLPOSE_LOCAL_MODELS_PATH (nothing is downloaded during a run)"
    )


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


def load_model(name: str, *, specimen: Specimen, device: str) -> FlowModel:
    """Load a segmentation model by name, or from a path.

    Parameters
    ----------
    name
        A shipped compact network, a model of the ``cellpose`` package, or the path of a ``.safetensors`` file
        with its card or of a Cellpose weights file.
    specimen
        Checked against what the model declares.
    device
        ``cpu`` or ``cuda``.
    """
    check_model(name, specimen)
    if name in CELLPOSE_NAMES:
        return CellposeModel(name, cellpose_weights(name), device)
    path = Path(name)
    if path.suffix != ".safetensors" and path.is_file():
        return CellposeModel(path.name, path, device)
    weights = find_weights(name, "segmentation")
    if specimen not in weights.card["specimens"]:
        raise ModelError(f"{path} declares {', '.join(weights.card['specimens'])}, not {specimen}")
    return CompactModel(weights, device)
