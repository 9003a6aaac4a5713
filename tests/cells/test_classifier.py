"""The cell classifier: loading, shapes, and answers that do not depend on how cells are batched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wsi_pipeline.cells.classifier import CellClassifier, load_classifier
from wsi_pipeline.cells.network import CellNetwork, NetworkSpec, balance, initialise
from wsi_pipeline.errors import DataError, DeviceError, MissingWeightsError, ModelError
from wsi_pipeline.training.cards import Card, save_weights, write_card

SPEC = NetworkSpec(n_classes=3, stem=8, widths=(8, 16), depths=(1, 1), embedding_dim=16)


def _network(seed: int = 0) -> CellNetwork:
    """A small network with normalisation that is not the identity, as after training."""
    network = CellNetwork(SPEC)
    initialise(network, seed)
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            with torch.no_grad():
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2.0, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
    return network.eval()


def _write(folder: Path, built: CellNetwork, *, task: str = "cells", **details: object) -> Path:
    path = folder / "small.safetensors"
    save_weights(built.state_dict(), path)
    card = Card(
        name="small",
        task=task,
        description="A test.",
        classes=("lymphocyte", "monocyte", "artefact"),
        specimens=("blood_smear",),
        mpp=0.25,
        data=(),
        licence="none",
        split={},
        figures=(),
        fails_on=("everything",),
        date="2026-01-01",
        details={
            "taxonomy": "pbc-blast",
            "window_px": 32,
            "network": built.spec.to_dict(),
            "temperature": 2.0,
            **details,
        },
    )
    write_card(card, path)
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return _write(tmp_path, _network())


@pytest.fixture
def classifier(weights: Path) -> CellClassifier:
    return load_classifier(weights)


def _crops(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


BACKGROUND = np.array([240, 230, 235], dtype=np.uint8)


def test_the_card_is_carried_over(classifier: CellClassifier) -> None:
    assert classifier.name == "small"
    assert classifier.classes == ("lymphocyte", "monocyte", "artefact")
    assert (classifier.mpp, classifier.window_px, classifier.embedding_dim) == (0.25, 32, 16)
    assert classifier.specimens == ("blood_smear",)
    assert classifier.taxonomy == "pbc-blast"
    assert len(classifier.sha256) == 64


def test_answers_are_those_of_the_plain_network(classifier: CellClassifier) -> None:
    crops = _crops(5)
    found = classifier.predict(crops, BACKGROUND, batch_size=4)
    with torch.inference_mode():
        rgb = balance(torch.from_numpy(crops), torch.from_numpy(BACKGROUND))
        network = _network()
        expected = torch.softmax(network(rgb) / 2.0, dim=1).numpy()
        embedding = network.embed(rgb).numpy()
    assert found.p.dtype == np.float32
    assert found.embedding.dtype == np.float16
    # Folding the normalisation changes the last bits only.
    np.testing.assert_allclose(found.p, expected, atol=2e-5)
    np.testing.assert_allclose(found.embedding, embedding, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(found.p.sum(axis=1), 1, atol=1e-6)


def test_a_cell_has_one_answer_whatever_stands_beside_it(classifier: CellClassifier) -> None:
    crops = _crops(37)
    whole = classifier.predict(crops, BACKGROUND, batch_size=8)
    order = np.random.default_rng(1).permutation(37)
    shuffled = classifier.predict(crops[order], BACKGROUND, batch_size=8)
    assert (shuffled.p == whole.p[order]).all()
    assert (shuffled.embedding == whole.embedding[order]).all()
    for k in (0, 7, 36):
        alone = classifier.predict(crops[k : k + 1], BACKGROUND, batch_size=8)
        assert (alone.p[0] == whole.p[k]).all()


def test_background_is_divided_out(classifier: CellClassifier) -> None:
    crops = _crops(6) // 2
    light = np.array([100, 100, 100], dtype=np.uint8)
    a = classifier.predict(crops, light)
    b = classifier.predict(crops * 2, light * 2)
    np.testing.assert_allclose(a.p, b.p, atol=1e-5)
    assert np.abs(a.p - classifier.predict(crops, light * 2).p).max() > 1e-3


def test_one_background_a_cell(classifier: CellClassifier) -> None:
    crops = _crops(6)
    each = np.random.default_rng(3).integers(150, 255, (6, 3), dtype=np.uint8)
    together = classifier.predict(crops, each)
    for k in range(6):
        assert (classifier.predict(crops[k : k + 1], each[k]).p[0] == together.p[k]).all()


def test_no_cells(classifier: CellClassifier) -> None:
    found = classifier.predict(_crops(0), BACKGROUND)
    assert found.p.shape == (0, 3)
    assert found.embedding.shape == (0, 16)


@pytest.mark.parametrize(
    ("crops", "background", "what"),
    [
        (np.zeros((2, 31, 31, 3), np.uint8), BACKGROUND, "takes uint8 windows"),
        (np.zeros((2, 32, 32, 3), np.float32), BACKGROUND, "takes uint8 windows"),
        (np.zeros((2, 32, 32, 3), np.uint8), BACKGROUND.astype(float), "background must be uint8"),
        (np.zeros((2, 32, 32, 3), np.uint8), np.zeros((3, 3), np.uint8), "background must be uint8"),
    ],
)
def test_wrong_arrays_are_refused(
    classifier: CellClassifier, crops: np.ndarray, background: np.ndarray, what: str
) -> None:
    with pytest.raises(DataError, match=what):
        classifier.predict(crops, background)


def test_damaged_weights_are_refused(weights: Path) -> None:
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="SHA-256"):
        load_classifier(weights)


def test_weights_of_another_task_or_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="for segmentation, not for cells"):
        load_classifier(_write(tmp_path, _network(), task="segmentation"))
    other = NetworkSpec(n_classes=3, stem=8, widths=(8, 24), depths=(1, 1), embedding_dim=16)
    with pytest.raises(ModelError, match="does not fit"):
        load_classifier(_write(tmp_path, _network(), network=other.to_dict()))
    with pytest.raises(ModelError, match="does not fit"):
        load_classifier(_write(tmp_path, _network(), network={"colour": 3}))


def test_missing_weights_and_devices(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"nothing\.safetensors"):
        load_classifier(tmp_path / "nothing.safetensors")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="no CUDA device"):
            load_classifier(weights, "cuda")


def test_shipped_weights_type_shipped_cells() -> None:
    classifier = load_classifier("pbc-blast")
    assert len(classifier.classes) == 13
    assert set(classifier.specimens) == {"blood_smear", "marrow_smear"}
    blank = np.full((3, classifier.window_px, classifier.window_px, 3), 250, dtype=np.uint8)
    answers = classifier.predict(blank, np.array([250, 250, 250], np.uint8)).p.argmax(axis=1)
    assert {classifier.classes[k] for k in answers} == {"artefact"}
