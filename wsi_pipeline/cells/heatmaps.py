"""Which parts of a window speak for a class: Grad-CAM, attention rollout, occlusion.

Three methods, one scale. All maps are 0 to 1, each scaled by its own maximum: they show *where*, not *how much*. A
map for a class of next to no probability is as bright as any other; read it beside the probability.

- ``grad-cam``, of convolutional networks: gradient of the log-probability of the class times the features, place by
  place, positive part (Selvaraju et al., ICCV 2017, doi 10.1109/ICCV.2017.74; kept by place instead of averaged over
  them as in Draelos and Carin, arXiv 2011.08891, since the compact network weighs the middle of its window more than
  its edge). Of the compact network the mean of its last two resolutions, 2 and 4 um.
- ``attention``, of vision transformers: attention weighted by the positive gradient of the class, multiplied through
  the blocks (rollout of Abnar and Zuidema, ACL 2020, arXiv 2005.00928; the weighting of Chefer et al., ICCV 2021,
  arXiv 2103.15679, without which rollout is the same for every class).
- ``occlusion``, of anything: a square of empty glass slides over the window; the mean drop of the probability over
  the squares that cover a pixel (Zeiler and Fergus, ECCV 2014, doi 10.1007/978-3-319-10590-1_53).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError, ModelError

if TYPE_CHECKING:
    import torch

    from wsi_pipeline.cells.backbones import TimmNetwork
    from wsi_pipeline.cells.classifier import CellClassifier

Method = Literal["grad-cam", "attention", "occlusion"]

RED_FROM = 0.5
"""Share of the maximum from which an overlay is red."""

_YELLOW, _RED = (255, 214, 0), (222, 0, 24)
_MOST_COVER = 0.6
_BATCH = 16
_PATCH_UM, _STRIDE_UM = 4.0, 2.0


@dataclass(frozen=True, kw_only=True)
class Heatmaps:
    """Maps of ``n`` windows.

    Parameters
    ----------
    values
        float32 ``(n, side, side)``, 0 to 1; a map is all zero where nothing speaks for the class.
    classes
        The class each map is for.
    method
        How they were made.
    """

    values: npt.NDArray[np.float32]
    classes: tuple[str, ...]
    method: Method


def method_for(classifier: CellClassifier) -> Method:
    """Return the method that suits a classifier best: of a network its own, of a classical model occlusion."""
    from wsi_pipeline.cells.backbones import TimmNetwork
    from wsi_pipeline.cells.classical import FeatureModel

    network = classifier.network
    if isinstance(network, FeatureModel):
        return "occlusion"
    if not isinstance(network, TimmNetwork):
        return "grad-cam"
    if _attention_blocks(network):
        return "attention"
    return "grad-cam" if _gives_planes(network) else "occlusion"


def heatmaps(
    classifier: CellClassifier,
    crops: npt.NDArray[np.uint8],
    background: npt.NDArray[np.uint8],
    classes: str | Sequence[str] | None = None,
    *,
    method: Method | None = None,
) -> Heatmaps:
    """Return where in each window the classifier sees a class.

    Parameters
    ----------
    classifier
        From :func:`wsi_pipeline.cells.classifier.load_classifier`.
    crops, background
        As :meth:`~wsi_pipeline.cells.classifier.CellClassifier.predict` takes them.
    classes
        One class for all windows, or one for each; None takes the classifier's answers.
    method
        None takes :func:`method_for`.

    Raises
    ------
    DataError
        A class is unknown, or there are not as many as windows.
    ModelError
        The method does not suit the network.
    """
    suits = method_for(classifier)
    method = method or suits
    if method not in get_args(Method):
        raise DataError(f"heatmap method {method!r}: one of {', '.join(get_args(Method))} is needed")
    if method not in (suits, "occlusion"):
        raise ModelError(f"{classifier.name} has no {method}; {' and '.join(dict.fromkeys((suits, 'occlusion')))} do")
    p = classifier.predict(crops, background).p  # checks the windows
    wanted = _wanted(classifier, p, classes)
    light = np.broadcast_to(background, (len(crops), 3))
    if not len(crops):
        raw = np.zeros((0, classifier.window_px, classifier.window_px))
    elif method == "occlusion":
        raw = _occlusion(classifier, crops, light, p, wanted)
    else:
        raw = _by_gradient(classifier, crops, light, wanted, method)
    return Heatmaps(values=_scaled(raw), classes=tuple(classifier.classes[i] for i in wanted), method=method)


def overlay(crops: npt.NDArray[np.uint8], values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return windows with their maps over them: yellow below :data:`RED_FROM`, red from there on.

    Parameters
    ----------
    crops
        uint8 ``(..., side, side, 3)``.
    values
        ``(..., side, side)``, 0 to 1.

    Raises
    ------
    DataError
        The shapes differ.
    """
    if crops.shape != (*values.shape, 3):
        raise DataError(f"windows {crops.shape} and maps {values.shape} do not belong together")
    share = values[..., None].astype(np.float64)
    colour = np.where(share >= RED_FROM, np.array(_RED, float), np.array(_YELLOW, float))
    mixed = crops + (colour - crops) * (_MOST_COVER * share)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def _wanted(
    classifier: CellClassifier, p: npt.NDArray[np.float32], classes: str | Sequence[str] | None
) -> npt.NDArray[np.int64]:
    if classes is None:
        return p.argmax(axis=1)
    asked = [classes] * len(p) if isinstance(classes, str) else list(classes)
    unknown = sorted(set(asked) - set(classifier.classes))
    if unknown:
        raise DataError(f"{classifier.name} has no class {', '.join(unknown)}; it has {', '.join(classifier.classes)}")
    if len(asked) != len(p):
        raise DataError(f"{len(asked)} classes for {len(p)} windows; give one, or one for each")
    return np.array([classifier.classes.index(name) for name in asked], dtype=np.int64)


def _scaled(raw: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    positive = np.clip(raw, 0, None)
    highest = positive.max(axis=(1, 2), keepdims=True, initial=0.0)
    return np.divide(positive, highest, out=np.zeros_like(positive), where=highest > 1e-12).astype(np.float32)


def _occlusion(
    classifier: CellClassifier,
    crops: npt.NDArray[np.uint8],
    light: npt.NDArray[np.uint8],
    p: npt.NDArray[np.float32],
    wanted: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    n, side = len(crops), classifier.window_px
    patch = max(2, round(_PATCH_UM / classifier.mpp))
    stride = max(1, round(_STRIDE_UM / classifier.mpp))
    starts = sorted({*range(0, side - patch, stride), side - patch})
    drop, covers = np.zeros((n, side, side)), np.zeros((side, side))
    before = p[np.arange(n), wanted].astype(np.float64)
    for y in starts:
        for x in starts:
            hidden = crops.copy()
            hidden[:, y : y + patch, x : x + patch] = light[:, None, None]
            after = classifier.predict(hidden, light).p[np.arange(n), wanted]
            drop[:, y : y + patch, x : x + patch] += (before - after)[:, None, None]
            covers[y : y + patch, x : x + patch] += 1
    return drop / covers


def _by_gradient(
    classifier: CellClassifier,
    crops: npt.NDArray[np.uint8],
    light: npt.NDArray[np.uint8],
    wanted: npt.NDArray[np.int64],
    method: Method,
) -> npt.NDArray[np.float64]:
    """Maps of one batch shape, the mean over the views that the classifier averages."""
    import torch
    from torch.nn import functional as F

    from wsi_pipeline.cells.views import undo_view, views_of

    side, preparation = classifier.window_px, classifier.preparation
    # Layers are listened to, which other threads that type cells must not notice.
    network = copy.deepcopy(classifier.network)
    make: Callable[..., list[torch.Tensor]] = _attention_map if method == "attention" else _grad_cam
    found = np.zeros((len(crops), side, side))
    for start in range(0, len(crops), _BATCH):
        part = np.minimum(np.arange(start, start + _BATCH), len(crops) - 1)
        images = torch.from_numpy(crops[part]).to(classifier.device)
        windows = preparation.windows(images, torch.from_numpy(light[part]).to(classifier.device))
        target = torch.from_numpy(wanted[part]).to(classifier.device)
        total = torch.zeros((_BATCH, side, side), dtype=torch.float64)
        for number, view in enumerate(views_of(windows, preparation.views)):
            for plane in make(network, view, target):
                wide = F.interpolate(plane[:, None], size=(side, side), mode="bilinear", align_corners=False)
                unit = wide / wide.amax(dim=(2, 3), keepdim=True).clamp(min=1e-12)
                total += undo_view(unit, number)[:, 0].cpu().double()
        kept = min(_BATCH, len(crops) - start)
        found[start : start + kept] = total[:kept].numpy()
    return found


def _log_probability(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.log_softmax(logits.float(), dim=1).gather(1, target[:, None]).sum()


def _grad_cam(network: Any, windows: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
    """Return positive maps ``(n, h, w)``, one a resolution."""
    import torch

    from wsi_pipeline.cells.backbones import TimmNetwork, WNet5

    planes: list[torch.Tensor] = []

    def keep(module: Any, inputs: Any, output: torch.Tensor) -> None:
        planes.append(output)

    with torch.enable_grad():
        asking = windows.clone().requires_grad_(True)
        if isinstance(network, TimmNetwork):
            features = network.backbone.forward_features(network.normalise(asking))
            planes.append(features)
            logits = network.head(network.backbone.forward_head(features))
        else:
            layers = [network.convolutions] if isinstance(network, WNet5) else list(network.stages)[-2:]
            hooks = [layer.register_forward_hook(keep) for layer in layers]
            try:
                logits = network.head(network.embed(asking))
            finally:
                for hook in hooks:
                    hook.remove()
        gradients = torch.autograd.grad(_log_probability(logits, target), planes)
    return [(g * a.detach()).sum(dim=1).clamp(min=0) for g, a in zip(gradients, planes, strict=True)]


def _attention_blocks(network: TimmNetwork) -> list[Any]:
    """Return the attention layers of a plain vision transformer that pools simply; empty for any other network."""
    from timm.models.vision_transformer import Attention, VisionTransformer

    backbone = network.backbone
    if not isinstance(backbone, VisionTransformer) or backbone.global_pool not in ("token", "avg"):
        return []
    layers = [getattr(block, "attn", None) for block in backbone.blocks]
    return layers if all(isinstance(layer, Attention) for layer in layers) else []


def _gives_planes(network: TimmNetwork) -> bool:
    """Tell whether the features of a network are planes ``(n, channels, h, w)``."""
    import torch

    side = network.spec.input_px
    with torch.inference_mode():
        features = network.backbone.forward_features(torch.zeros(1, 3, side, side, device=network.head.weight.device))
    # Some transformers put the channels last, where this would take a row of the picture for them.
    return bool(features.ndim == 4 and features.shape[1] == network.backbone.num_features)


def _attention_map(network: TimmNetwork, windows: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
    """Return one positive map ``(n, h, w)`` of a vision transformer."""
    import torch

    layers = _attention_blocks(network)
    seen: list[torch.Tensor] = []

    def keep(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(inputs[0])

    fused = [layer.fused_attn for layer in layers]
    hooks = [layer.attn_drop.register_forward_pre_hook(keep) for layer in layers]
    try:
        for layer in layers:
            layer.fused_attn = False  # The fused kernel never has the weights in memory.
        with torch.enable_grad():
            logits = network.head(network.embed(windows.clone().requires_grad_(True)))
            gradients = torch.autograd.grad(_log_probability(logits, target), seen)
    finally:
        for layer, was in zip(layers, fused, strict=True):
            layer.fused_attn = was
        for hook in hooks:
            hook.remove()
    tokens = seen[0].shape[-1]
    relevance = torch.eye(tokens, device=windows.device).expand(len(windows), -1, -1)
    for weights, gradient in zip(seen, gradients, strict=True):
        mixed = (gradient * weights.detach()).clamp(min=0).mean(dim=1)
        relevance = relevance + mixed @ relevance
    backbone = network.backbone
    prefix = int(backbone.num_prefix_tokens)
    height, width = backbone.patch_embed.grid_size
    if backbone.global_pool == "token":
        patches = relevance[:, 0, prefix:]
    else:  # less what each patch has of itself before any attention
        patches = relevance[:, prefix:, prefix:].mean(dim=1) - 1 / (tokens - prefix)
    return [patches.reshape(-1, height, width).clamp(min=0)]
