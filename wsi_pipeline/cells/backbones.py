"""Networks that type single cells besides the compact one, and how a card's description becomes a network.

* ``wnet5``: five layers with weights, three convolutions with pooling and two fully connected ones, at 128 pixels,
  after W-Net (Jung et al., BMC Medical Imaging 22:94, 2022, doi 10.1186/s12880-022-00818-1). Channels and optimiser are
  ours.
* ``timm``: a backbone of the ``timm`` package by name, with one linear layer on its features. DinoBloom (Koch et al.,
  MICCAI 2024, arXiv 2404.05022) is such a backbone: DINOv2's vision transformers at 224 pixels.

All take white-balanced windows, as :class:`~wsi_pipeline.cells.network.CellNetwork` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from wsi_pipeline.cells.network import CellNetwork, NetworkSpec
from wsi_pipeline.errors import ModelError

DINOBLOOM = {
    "dinobloom-s": "vit_small_patch14_dinov2",
    "dinobloom-b": "vit_base_patch14_dinov2",
    "dinobloom-l": "vit_large_patch14_dinov2",
    "dinobloom-g": "vit_giant_patch14_dinov2",
}
"""Names of DinoBloom's networks, and timm's architectures they are."""

IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Tuning = Literal["all", "linear", "last-blocks"]


@dataclass(frozen=True, kw_only=True)
class WNet5Spec:
    """Rebuilds a :class:`WNet5`."""

    n_classes: int
    input_px: int = 128
    widths: tuple[int, int, int] = (16, 32, 64)
    embedding_dim: int = 256
    kind: Literal["wnet5"] = "wnet5"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {**asdict(self), "widths": list(self.widths)}


@dataclass(frozen=True, kw_only=True)
class TimmSpec:
    """Rebuilds a :class:`TimmNetwork`; ``input_px`` is the side its windows are resized to."""

    n_classes: int
    architecture: str
    input_px: int
    embedding_dim: int
    kind: Literal["timm"] = "timm"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return asdict(self)


class WNet5(nn.Module):
    """Three 3x3 convolutions, each with 2x2 maximum pooling, then two fully connected layers."""

    def __init__(self, spec: WNet5Spec, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.spec = spec
        first, second, third = spec.widths
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, first, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(second, third, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.project = nn.Linear(third * (spec.input_px // 8) ** 2, spec.embedding_dim)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(spec.embedding_dim, spec.n_classes)

    def embed(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return the embedding ``(n, embedding_dim)`` of ``(n, 3, side, side)`` balanced intensities."""
        x = (resized(rgb, self.spec.input_px) - 0.75) / 0.25
        return F.relu(self.project(self.convolutions(x).flatten(1)))

    def forward(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return logits, ``(n, n_classes)``."""
        return self.head(self.dropout(self.embed(rgb)))

    def fold(self) -> None:
        """Set the network to infer only."""
        self.eval()


class TimmNetwork(nn.Module):
    """A timm backbone without its own classifier, and a linear layer.

    Parameters
    ----------
    tuning
        What is trained: everything, the linear layer alone, or it and the last two blocks of a transformer.

    Raises
    ------
    ModelError
        timm has no such network, its features are not of the described length, or ``last-blocks`` was asked of one
        without blocks.
    """

    def __init__(self, spec: TimmSpec, *, dropout: float = 0.0, tuning: Tuning = "all") -> None:
        super().__init__()
        self.spec = spec
        self.backbone = timm_backbone(spec.architecture, spec.input_px)
        if self.backbone.num_features != spec.embedding_dim:
            raise ModelError(
                f"{spec.architecture} gives {self.backbone.num_features} features, its card says {spec.embedding_dim}"
            )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(spec.embedding_dim, spec.n_classes)
        self.tuning = tuning
        if tuning != "all":
            self.backbone.requires_grad_(False)
        if tuning == "last-blocks":
            for part in self._last_blocks():
                part.requires_grad_(True)

    def _last_blocks(self) -> list[nn.Module]:
        blocks = getattr(self.backbone, "blocks", None)
        if blocks is None or len(blocks) < 3:
            raise ModelError(f"{self.spec.architecture} has no blocks; use --tune all or linear")
        norm = getattr(self.backbone, "norm", None)
        return [*list(blocks)[-2:], *([norm] if isinstance(norm, nn.Module) else [])]

    def train(self, mode: bool = True) -> TimmNetwork:
        """Set the mode; what is not trained stays as for inference, its running statistics too."""
        super().train(mode)
        if mode and self.tuning != "all":
            self.backbone.eval()
            if self.tuning == "last-blocks":
                for part in self._last_blocks():
                    part.train()
        return self

    def normalise(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return what the backbone takes of ``(n, 3, side, side)`` balanced intensities."""
        mean = torch.tensor(IMAGENET_MEAN, device=rgb.device).view(1, 3, 1, 1)
        spread = torch.tensor(IMAGENET_SD, device=rgb.device).view(1, 3, 1, 1)
        return (resized(rgb, self.spec.input_px).clamp(0, 1) - mean) / spread

    def embed(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return the embedding ``(n, embedding_dim)`` of ``(n, 3, side, side)`` balanced intensities."""
        features: torch.Tensor = self.backbone(self.normalise(rgb))
        return features

    def forward(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return logits, ``(n, n_classes)``."""
        return self.head(self.dropout(self.embed(rgb)))

    def fold(self) -> None:
        """Set the network to infer only."""
        self.eval()


Network = CellNetwork | WNet5 | TimmNetwork


def resized(rgb: torch.Tensor, side: int) -> torch.Tensor:
    """Return windows of another side, bilinear, averaged when made smaller."""
    if rgb.shape[-1] == side:
        return rgb
    return F.interpolate(rgb, size=(side, side), mode="bilinear", align_corners=False, antialias=True)


def timm_backbone(architecture: str, input_px: int) -> Any:
    """Return a timm network without classifier and with random weights.

    Raises
    ------
    ModelError
        timm has no network of that name, or it cannot take windows of this side.
    """
    import timm

    check_architecture(architecture)
    settings: dict[str, Any] = {"pretrained": False, "num_classes": 0}
    try:
        return timm.create_model(architecture, img_size=input_px, **settings)
    except TypeError:  # Convolutional networks take any side and no argument for it.
        pass
    except (ValueError, AssertionError, RuntimeError) as error:
        raise ModelError(f"{architecture} cannot take windows of {input_px} px: {error}") from None
    return timm.create_model(architecture, **settings)


def check_architecture(architecture: str, also: Sequence[str] = ()) -> None:
    """Refuse a name that timm does not know.

    Parameters
    ----------
    also
        Other names that would have done, for the message.

    Raises
    ------
    ModelError
        With names that are alike.
    """
    import timm

    if not timm.is_model(architecture):
        close = [*also, *timm.list_models(f"*{architecture.split('_', maxsplit=1)[0].split('.', maxsplit=1)[0]}*")[:5]]
        hint = f"; known are {', '.join(close)}" if close else ""
        raise ModelError(f"timm {timm.__version__} has no network {architecture!r}{hint}")


def _compact(description: Mapping[str, Any]) -> Network:
    return CellNetwork(NetworkSpec.from_dict({k: v for k, v in description.items() if k != "kind"}))


def _wnet5(description: Mapping[str, Any]) -> Network:
    first, second, third = description["widths"]
    return WNet5(WNet5Spec(**{**description, "widths": (first, second, third)}))


def _timm(description: Mapping[str, Any]) -> Network:
    return TimmNetwork(TimmSpec(**description))


_KINDS: dict[str, Callable[[Mapping[str, Any]], Network]] = {"compact": _compact, "wnet5": _wnet5, "timm": _timm}


def build_network(description: Mapping[str, Any]) -> Network:
    """Return the network a card describes, with random weights; a card that names no kind means the compact one.

    Raises
    ------
    ModelError
        The kind is unknown, or timm does not have the architecture.
    TypeError, KeyError, ValueError
        The description lacks or misspells an entry.
    """
    kind = description.get("kind", "compact")
    if kind not in _KINDS:
        raise ModelError(f"a network of kind {kind!r} is unknown; this version knows {', '.join(_KINDS)}")
    return _KINDS[kind](description)
