"""Networks besides the compact one: built from a description, loaded with a card, alike in every batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wsi_pipeline.cells.backbones import (
    DINOBLOOM,
    TimmNetwork,
    TimmSpec,
    WNet5,
    WNet5Spec,
    build_network,
    timm_backbone,
)
from wsi_pipeline.cells.classifier import load_classifier
from wsi_pipeline.errors import ModelError
from wsi_pipeline.training.cards import Card, save_weights, write_card
from wsi_pipeline.training.cells.models import ModelChoice, backbone_weights

VIT = "vit_small_patch14_dinov2"


def _write(folder: Path, built: Any, window: int, **changes: Any) -> Path:
    weights = folder / "w.safetensors"
    save_weights(built.state_dict(), weights)
    details = {"taxonomy": "pbc", "window_px": window, "network": built.spec.to_dict(), "temperature": 2.0} | changes
    card = Card(
        name="w", task="cells", description="", classes=("basophil", "eosinophil", "monocyte"),
        specimens=("blood_smear",), mpp=0.25, data=(), licence="", split={}, figures=(), fails_on=(), date="",
        details=details,
    )  # fmt: skip
    write_card(card, weights)
    return weights


@pytest.mark.parametrize(
    ("network", "dim"),
    [
        (lambda: WNet5(WNet5Spec(n_classes=3, input_px=64, widths=(4, 4, 8), embedding_dim=12)), 12),
        (lambda: TimmNetwork(TimmSpec(n_classes=3, architecture="resnet10t", input_px=32, embedding_dim=512)), 512),
    ],
)
def test_weights_answer_alike_in_every_batch(network: Any, dim: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = load_classifier(_write(tmp_path, network(), 32))
    crops = np.random.default_rng(0).integers(0, 255, (7, 32, 32, 3), np.uint8)
    light = np.full(3, 240, np.uint8)
    whole = classifier.predict(crops, light, batch_size=4)
    assert whole.embedding.shape == (7, dim)
    assert whole.p.sum(1) == pytest.approx(np.ones(7), abs=1e-5)
    turned = classifier.predict(crops[::-1], light, batch_size=4)
    assert (turned.p[::-1] == whole.p).all()
    assert (turned.embedding[::-1] == whole.embedding).all()


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    network = WNet5(WNet5Spec(n_classes=3, input_px=32))
    with pytest.raises(ModelError, match=r"w\.json: a network of kind 'capsule' is unknown; .* compact, wnet5, timm"):
        load_classifier(_write(tmp_path, network, 32, network={"kind": "capsule"}))
    with pytest.raises(ModelError, match="does not fit the network"):
        load_classifier(_write(tmp_path, network, 32, network={**network.spec.to_dict(), "widths": [1, 2, 3]}))
    with pytest.raises(ModelError, match="no network 'resnet1000'"):
        build_network(
            {"kind": "timm", "n_classes": 3, "architecture": "resnet1000", "input_px": 32, "embedding_dim": 9}
        )


def test_dinobloom_files_are_read_under_timms_names(tmp_path: Path) -> None:
    """A file keyed as DinoBloom's are (teacher, backbone., chunks of blocks, heads) gives every tensor of the backbone.

    The tensors are random: the real weights are not redistributed here.
    """
    backbone = timm_backbone(VIT, 224)
    made = {k: torch.full_like(v, i % 7) for i, (k, v) in enumerate(backbone.state_dict().items())}
    for chunked in (False, True):
        named = {f"backbone.{k.replace('blocks.', 'blocks.0.') if chunked else k}": v for k, v in made.items()} | {
            "backbone.mask_token": torch.zeros(1, 384),
            "dino_head.mlp.0.weight": torch.zeros(2),
        }
        torch.save({"teacher": named}, tmp_path / "bloom.pth")
        read = backbone_weights(tmp_path / "bloom.pth", backbone, DINOBLOOM["dinobloom-s"])
        assert all(torch.equal(read[k], v) for k, v in made.items())
    large = {**made, "pos_embed": torch.rand(1, 37 * 37 + 1, 384)}
    save_file(large, tmp_path / "dinov2.safetensors")
    assert backbone_weights(tmp_path / "dinov2.safetensors", backbone, VIT)["pos_embed"].shape == (1, 257, 384)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="is not for vit_small_patch14_dinov2"):
        backbone_weights(tmp_path / "other.safetensors", backbone, VIT)
    torch.save({"teacher": Path("x")}, tmp_path / "code.pth")
    with pytest.raises(ModelError, match="no file of tensors alone"):
        backbone_weights(tmp_path / "code.pth", backbone, VIT)


def test_a_linear_probe_leaves_the_backbone_alone() -> None:
    spec = TimmSpec(n_classes=2, architecture="resnet10t", input_px=32, embedding_dim=512)
    network = TimmNetwork(spec, tuning="linear").train()
    before = {k: v.clone() for k, v in network.backbone.state_dict().items()}
    loss = network(torch.rand(4, 3, 32, 32)).sum()
    loss.backward()
    torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1).step()
    assert all(torch.equal(v, before[k]) for k, v in network.backbone.state_dict().items())
    assert {n for n, p in network.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    with pytest.raises(ModelError, match="has no blocks"):
        TimmNetwork(spec, tuning="last-blocks")
    blocks = TimmNetwork(
        TimmSpec(n_classes=2, architecture="vit_tiny_patch16_224", input_px=32, embedding_dim=192), tuning="last-blocks"
    )
    trained = {n.split(".")[2] for n, p in blocks.named_parameters() if p.requires_grad and ".blocks." in n}
    assert trained == {"10", "11"}


def test_a_model_is_chosen_by_name() -> None:
    assert ModelChoice(name="timm:resnet18").architecture == ModelChoice(name="resnet18").architecture == "resnet18"
