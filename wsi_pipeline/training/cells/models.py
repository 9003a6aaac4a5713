"""What ``--model`` of ``train cells`` names: the window each network works in, and its first weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from wsi_pipeline.cells.backbones import (
    DINOBLOOM,
    Network,
    TimmNetwork,
    TimmSpec,
    Tuning,
    WNet5,
    WNet5Spec,
    check_architecture,
    timm_backbone,
)
from wsi_pipeline.cells.classical import KINDS as CLASSICAL
from wsi_pipeline.errors import ConfigError, DownloadError, ModelError
from wsi_pipeline.training.cells.fit import CellRecipe

NAMES = ("compact", "wnet5", *CLASSICAL, *DINOBLOOM)
TUNINGS: tuple[Tuning, ...] = ("all", "linear", "last-blocks")

_FINE_WINDOW_PX, _FINE_MPP = 128, 0.1875
"""The compact network's 24 um at a finer resolution."""


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """A model to train.

    Attributes
    ----------
    name
        ``compact``, ``wnet5``, ``features+svm``, ``features+xgboost``, ``dinobloom-s``, ..., or a timm network with or
        without ``timm:`` before it.
    weights
        File of first weights for a timm or DinoBloom backbone, ``.safetensors`` or ``.pth``.
    pretrained
        Download timm's own weights.
    tune
        What of a backbone is trained; None is ``linear`` for DinoBloom, else ``all``.
    """

    name: str = "compact"
    weights: Path | None = None
    pretrained: bool = False
    tune: Tuning | None = None

    def __post_init__(self) -> None:
        if self.tune is not None and self.tune not in TUNINGS:
            raise ConfigError(f"--tune {self.tune}: one of {', '.join(TUNINGS)} is needed")
        given = [
            option
            for option, value in (
                ("--backbone-weights", self.weights), ("--pretrained", self.pretrained), ("--tune", self.tune)
            )
            if value
        ]  # fmt: skip
        if given and not self.is_backbone:
            raise ConfigError(f"{', '.join(given)}: only for timm and DinoBloom backbones, not for --model {self.name}")
        if self.weights is not None and self.pretrained:
            raise ConfigError("--backbone-weights and --pretrained: give one of them")
        if self.pretrained and self.name in DINOBLOOM:
            raise ConfigError(
                "--pretrained: DinoBloom's weights are fetched by hand (zenodo.org/records/10908163); "
                "give the file with --backbone-weights"
            )
        if self.tuning != "all" and self.weights is None and not self.pretrained and self.name not in DINOBLOOM:
            raise ConfigError(
                f"--tune {self.tuning} would keep random weights; give --backbone-weights or --pretrained"
            )
        if self.name in DINOBLOOM and self.weights is None:
            raise ConfigError(f"--model {self.name} needs its weights: --backbone-weights DinoBloom-S.pth or the like")

    @property
    def is_classical(self) -> bool:
        """Whether it is a model on features."""
        return self.name in CLASSICAL

    @property
    def is_backbone(self) -> bool:
        """Whether it is a timm network."""
        return self.name not in ("compact", "wnet5", *CLASSICAL)

    @property
    def architecture(self) -> str:
        """timm's name of the backbone."""
        return DINOBLOOM.get(self.name, self.name.removeprefix("timm:"))

    @property
    def tuning(self) -> Tuning:
        """What is trained."""
        return self.tune or ("linear" if self.name in DINOBLOOM else "all")

    def check(self) -> None:
        """Refuse, before any image is read, what cannot be trained here.

        Raises
        ------
        ModelError
            timm has no such network, or a file of weights does not exist.
        """
        if self.is_backbone:
            check_architecture(self.architecture, also=NAMES)
        if self.weights is not None and not self.weights.is_file():
            raise ModelError(f"--backbone-weights {self.weights} does not exist")

    def recipe(self, recipe: CellRecipe) -> CellRecipe:
        """Return the recipe with the window and learning rate of this model.

        All see 24 um. ``wnet5`` and transformers take them as 128 pixels (which the latter enlarge), others as the
        compact network does. Pretrained or random, whole backbones train at a tenth of the learning rate of the compact
        network, and ``wnet5``, which has no normalisation, at a fifth.
        """
        fine = replace(
            recipe, window_px=_FINE_WINDOW_PX, mpp=_FINE_MPP, side_px=round(recipe.side_px * recipe.mpp / _FINE_MPP)
        )
        if self.name == "wnet5":
            return replace(fine, learning_rate=recipe.learning_rate / 5)
        if not self.is_backbone:
            return recipe
        rate = recipe.learning_rate if self.tuning == "linear" else recipe.learning_rate / 10
        return replace(fine if self._wants_224 else recipe, learning_rate=rate)

    @property
    def _wants_224(self) -> bool:
        return self.architecture.startswith(("vit_", "deit", "swin", "beit", "eva", "cait", "xcit", "convit"))

    def builder(self, n_classes: int, recipe: CellRecipe) -> Callable[[], Network] | None:
        """Return what makes the network with its first weights; None for the compact one.

        Raises
        ------
        ModelError
            timm has no such network, or the weights do not fit.
        DownloadError
            timm's weights were asked for and cannot be had.
        """
        if self.name == "compact":
            return None
        if self.name == "wnet5":
            spec = WNet5Spec(n_classes=n_classes, input_px=recipe.window_px)
            return lambda: WNet5(spec, dropout=recipe.dropout)
        side = 224 if self._wants_224 else recipe.window_px
        backbone = timm_backbone(self.architecture, side)
        described = TimmSpec(
            n_classes=n_classes, architecture=self.architecture, input_px=side, embedding_dim=backbone.num_features
        )
        first: Mapping[str, torch.Tensor] | None = None
        if self.weights is not None:
            first = backbone_weights(self.weights, backbone, self.architecture)
        elif self.pretrained:
            first = _downloaded(self.architecture, side)

        def build() -> TimmNetwork:
            network = TimmNetwork(described, dropout=recipe.dropout, tuning=self.tuning)
            if first is not None:
                network.backbone.load_state_dict(first)
            return network

        return build


def backbone_weights(path: Path, backbone: Any, architecture: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a file under the names of a timm backbone.

    Read are timm's and DINOv2's own files, and DinoBloom's checkpoints: tensors under ``teacher`` named ``backbone.*``,
    with position embeddings for 224 pixels, heads of the self-supervision beside them.

    Raises
    ------
    ModelError
        The file cannot be read without running code, or its tensors are not those of the network.
    """
    tensors = _read_tensors(path)
    for wrapper in ("teacher", "model", "state_dict"):
        if isinstance(tensors.get(wrapper), Mapping):
            tensors = tensors[wrapper]
    found: dict[str, torch.Tensor] = {}
    for key, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            continue
        name = key.removeprefix("module.").removeprefix("backbone.")
        if not name.startswith(("dino_head", "ibot_head", "head.", "fc.", "classifier.")) and name != "mask_token":
            found[name] = value
    if architecture in DINOBLOOM.values():
        found = _dinov2_names(found)
    wanted = backbone.state_dict()
    if "pos_embed" in wanted and "pos_embed" in found and found["pos_embed"].shape != wanted["pos_embed"].shape:
        from timm.layers import resample_abs_pos_embed

        side = round((wanted["pos_embed"].shape[1] - 1) ** 0.5)
        found["pos_embed"] = resample_abs_pos_embed(found["pos_embed"].float(), [side, side])
    missing = [k for k in wanted if k not in found or found[k].shape != wanted[k].shape]
    if missing:
        raise ModelError(
            f"{path} is not for {architecture}: {len(missing)} of {len(wanted)} tensors are missing or of another "
            f"shape ({', '.join(missing[:3])}); it holds {', '.join(list(found)[:3]) or 'none'}"
        )
    return {k: found[k].to(wanted[k].dtype) for k in wanted}


def _dinov2_names(found: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename DINOv2's tensors as timm has them: blocks in chunks, and the giant's gated layers."""
    renamed = {}
    for key, value in found.items():
        parts = key.split(".")
        if parts[0] == "blocks" and len(parts) > 3 and parts[1].isdigit() and parts[2].isdigit():
            parts = ["blocks", *parts[2:]]
        name = ".".join(parts).replace("mlp.w12.", "mlp.fc1.").replace("mlp.w3.", "mlp.fc2.")
        renamed[name] = value
    return renamed


def _read_tensors(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ModelError(f"--backbone-weights {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch raises many kinds for files that are none of its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"--backbone-weights {path}: no file of tensors alone ({reason})") from None
    if not isinstance(loaded, Mapping):
        raise ModelError(f"--backbone-weights {path} holds {type(loaded).__name__}; named tensors are needed")
    return loaded


def _downloaded(architecture: str, side: int) -> dict[str, torch.Tensor]:
    import timm

    try:
        try:
            network = timm.create_model(architecture, pretrained=True, num_classes=0, img_size=side)
        except TypeError:
            network = timm.create_model(architecture, pretrained=True, num_classes=0)
    except Exception as error:  # noqa: BLE001 - whatever the hub, the network and the cache raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DownloadError(
            f"timm's weights of {architecture} cannot be downloaded here ({reason}); fetch the file elsewhere and "
            "give it with --backbone-weights"
        ) from None
    return dict(network.state_dict())
