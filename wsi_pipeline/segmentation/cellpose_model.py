"""A network of Cellpose 4 as the engine runs it: built by ``cellpose``, filled strictly, in one fixed precision."""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from wsi_pipeline.config import Specimen
from wsi_pipeline.errors import ModelError
from wsi_pipeline.segmentation.batching import model_bytes, transformer_tile_bytes
from wsi_pipeline.segmentation.cellpose_files import Backbone, backbone_of, check_shapes, read_state
from wsi_pipeline.segmentation.precision import Precision, dtype_of
from wsi_pipeline.weights import file_sha256, load_weights

if TYPE_CHECKING:
    import torch

TILE_PX: dict[Backbone, int] = {"sam_vitl": 256, "dino_vitl": 384, "dino_vitb": 384}
"""Side of the tiles that each network was trained on; ``cpsam`` takes no other."""

PATCH_PX = 8
OVERLAP_PX = 32


class CellposeModel:
    """A model of the ``cellpose`` package, or one fine-tuned from it.

    The weights of the package were trained on data that is not for commercial use. A card beside the file (the
    file's name with ``.json``, written by ``train segmentation --base cellpose``) is obeyed: its SHA-256, its
    specimens and, as it names the one kind of cell that the network was tuned to, its kinds.

    Raises
    ------
    ModelError
        The file cannot be used, or its card does not fit it or the specimen.
    """

    overlap_px = OVERLAP_PX

    def __init__(self, name: str, path: Path, device: str, *, precision: Precision, specimen: Specimen) -> None:
        kinds, sha256 = _obey_card(path, specimen)
        network, backbone = build_network(path, device=device, dtype=dtype_of(precision))
        self.name = name
        self.kinds = kinds
        self.device = device
        self.sha256 = sha256 or file_sha256(path)
        self.precision = precision
        self.tile_px = TILE_PX[backbone]
        self.model_bytes = model_bytes(network)
        self.tile_bytes = transformer_tile_bytes(
            tokens=(self.tile_px // PATCH_PX) ** 2,
            width=network.out.weight.shape[1] if backbone != "sam_vitl" else _encoder_width(network),
            itemsize=network.dtype.itemsize,
        )
        self._network: Any = network.eval()

    def predict(self, tiles: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Map ``(n, 3, t, t)`` to ``(n, 3, t, t)``, or to ``(n, 5, t, t)`` for a network tuned to one kind.

        The kind's logit is the cell's, that of the background 0.
        """
        return self.predict_on_device(tiles).cpu().numpy()

    def predict_on_device(self, tiles: npt.NDArray[np.float32]) -> torch.Tensor:
        """As :meth:`predict`, but the float32 output stays on the device."""
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(tiles).to(self._network.device, self._network.dtype)
            output: torch.Tensor = self._network(batch)[0].float()
            if self.kinds:
                cell = output[:, 2:3]
                output = torch.cat([output, torch.zeros_like(cell), cell], dim=1)
        return output


def build_network(path: Path, *, device: str, dtype: torch.dtype, called: str | None = None) -> tuple[Any, Backbone]:
    """Build the network of a file, filled with its tensors and nothing else.

    Parameters
    ----------
    called
        What the errors call the file; its path when None.

    Returns
    -------
    network, backbone
        A ``cellpose.vit.CPSAM`` or ``CPDINO`` on ``device`` in ``dtype``, and which.

    Raises
    ------
    ModelError
        The file cannot be used; see :mod:`wsi_pipeline.segmentation.cellpose_files`.
    """
    import torch

    shown = called or str(path)
    state = read_state(path, called=called)
    backbone = backbone_of(state, shown)
    vit = import_cellpose("vit")
    if backbone == "sam_vitl":
        # On the meta device: a ViT-L is not drawn at random, to be thrown away at once.
        with torch.device("meta"):
            network = vit.CPSAM(dtype=dtype)
    else:
        if not hasattr(vit, "dinov3_vitl16"):
            raise ModelError(f"{shown}: found a cpdino network, but cellpose cannot import dinov3; install it again")
        network = vit.CPDINO(model_name=backbone.removeprefix("dino_"), dtype=dtype)
    check_shapes(state, network.state_dict(), shown)
    try:
        network.load_state_dict({k: v.to(device, dtype, copy=True) for k, v in state.items()}, assign=True)
    except RuntimeError as error:
        raise ModelError(f"{shown}: the tensors do not fit the network ({error})") from None
    return network.to(device=device, dtype=dtype), backbone


def _obey_card(path: Path, specimen: Specimen) -> tuple[tuple[str, ...], str | None]:
    """Return the kinds and the SHA-256 of the card beside a file; nothing and None where there is none."""
    if not path.with_suffix(".json").is_file():
        return (), None
    weights = load_weights(path)
    if weights.card["task"] != "segmentation":
        raise ModelError(f"{path}: its card says it is for {weights.card['task']}, not for segmentation")
    weights.verify()
    if specimen not in weights.card["specimens"]:
        raise ModelError(f"{path} declares {', '.join(weights.card['specimens'])}, not {specimen}")
    kinds = tuple(weights.card.get("kinds", ()))
    if kinds and (len(kinds) != 2 or kinds[0] != "background"):
        raise ModelError(f"{path}: its card names the kinds {', '.join(kinds)}; background and one kind are needed")
    return kinds, weights.sha256


def _encoder_width(network: Any) -> int:
    return int(network.encoder.patch_embed.proj.weight.shape[0])


def import_cellpose(module: Literal["models", "vit"]) -> Any:
    """Import a module of ``cellpose``, without its warning about ``dinov3`` and its change of torch's matmul setting.

    The setting is the process's: it would let other models round to TF32 when this one was loaded before them.
    """
    import torch

    before = torch.backends.cuda.matmul.allow_tf32
    loggers = [logging.getLogger(f"cellpose.{name}") for name in ("models", "vit")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        return import_module(f"cellpose.{module}")
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        torch.backends.cuda.matmul.allow_tf32 = before
