"""The compact network inside Cellpose: a ``CellposeModel`` that loads no weights of its own.

Runs in the environments of the peers, where our package may be missing: of the repository only ``networks.py`` is
read, by its path, beside torch and safetensors.
"""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

_NETWORKS = Path(__file__).resolve().parents[1] / "wsi_pipeline" / "segmentation" / "networks.py"


class CompactForCellpose(nn.Module):
    """Our network as ``cellpose.core`` expects one: flows and cell logit, a style of zeros, device and type."""

    def __init__(self, weights: str) -> None:
        super().__init__()
        from safetensors.torch import load_file

        spec = importlib.util.spec_from_file_location("compact_networks", _NETWORKS)
        assert spec is not None
        assert spec.loader is not None
        networks = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(networks)
        card = json.loads(Path(weights).with_suffix(".json").read_text(encoding="utf-8"))
        network = networks.CompactFlowNet(len(card["kinds"]), tuple(card["widths"]))
        network.load_state_dict(load_file(weights))
        network = networks.fold_batch_norms(network.eval())
        self.network = network.to(torch.bfloat16).to(memory_format=torch.channels_last)
        self.device, self.dtype = torch.device("cpu"), torch.bfloat16

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.network(x.contiguous(memory_format=torch.channels_last))
        return y[:, :3], torch.zeros(len(x), 256)


@cache
def _network(weights: str) -> CompactForCellpose:
    return CompactForCellpose(weights)


@cache
def compact_cellpose(weights: str, threads: int) -> type:
    """Return a ``CellposeModel`` with the compact network, which is loaded once a process (Cellpose: once a block)."""
    from cellpose import models

    torch.set_num_threads(threads)

    class CompactCellpose(models.CellposeModel):  # type: ignore[misc]
        def __init__(self, **_: Any) -> None:
            self.device, self.gpu = torch.device("cpu"), False
            self.backbone, self.pretrained_model = "sam_vitl", weights  # the backbone with tiles of 256 pixels
            self.net = _network(weights)

    return CompactCellpose


def colours_and_network(image: Any, *, rgb: str, weights: str, threads: int, crop: Any = None) -> Any:
    """Preprocessing step of ``distributed_eval``: put our network in place, return the colours of a grey block."""
    import zarr
    from cellpose import models

    del image
    models.CellposeModel = compact_cellpose(weights, threads)
    return zarr.open(rgb, mode="r")[(*crop, slice(None))]
