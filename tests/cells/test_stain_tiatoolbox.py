"""TIAToolbox's stain normalisation of single windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsi_pipeline.cells.network import balance
from wsi_pipeline.cells.preparation import Preparation
from wsi_pipeline.cells.stain_tiatoolbox import LAB_MEANS, STAINS, Method, normalise_tiatoolbox
from wsi_pipeline.training.cells.augment import augment
from wsi_pipeline.training.cells.fit import AUGMENTATIONS

METHODS: tuple[Method, ...] = ("macenko", "reinhard")


def _window(gain: float, tint: tuple[float, float, float] = (1.0, 1.0, 1.0), seed: int = 0) -> torch.Tensor:
    """A nucleus in cytoplasm on light ground, of two stains in amounts that vary, as intensities."""
    rng = np.random.default_rng(seed)
    axis = np.arange(64) + 0.5 - 32
    radius = np.hypot(axis[None], axis[:, None])
    nucleus, eosin = np.array([0.75, 0.6, 0.25]) * tint, np.array([0.15, 0.9, 0.3]) * tint
    amounts = rng.uniform(0.8, 1.2, (2, 64, 64)) * gain
    density = (radius < 14)[..., None] * amounts[0][..., None] * nucleus
    density = density + ((radius < 22) & (radius > 10))[..., None] * amounts[1][..., None] * 0.5 * eosin
    return torch.from_numpy(np.exp(-density).astype(np.float32)).permute(2, 0, 1)[None]


@pytest.mark.parametrize("method", METHODS)
def test_two_strengths_of_stain_become_alike(method: Method) -> None:
    pale, dark = _window(0.7), _window(1.3)
    before = (pale - dark).abs().mean()
    after = (normalise_tiatoolbox(pale, method) - normalise_tiatoolbox(dark, method)).abs().mean()
    assert before > 0.04
    assert after < 0.35 * before


def test_macenko_brings_the_nucleus_to_the_stain_of_the_reference() -> None:
    found = normalise_tiatoolbox(_window(1.0, tint=(0.8, 1.1, 1.0)), "macenko")
    middle = -torch.log(found[0, :, 27:37, 27:37]).mean(dim=(1, 2))
    direction = middle / middle.norm()
    assert float(direction @ torch.tensor(STAINS[0])) > 0.98


def test_reinhard_brings_the_mean_colour_to_that_of_the_reference() -> None:
    import cv2

    found = normalise_tiatoolbox(_window(1.0), "reinhard")
    pixels = (found[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB).astype(float).reshape(-1, 3).mean(axis=0)
    assert np.allclose([lab[0] / 2.55, lab[1] - 128, lab[2] - 128], LAB_MEANS, atol=6)


@pytest.mark.parametrize("method", METHODS)
def test_a_window_is_normalised_by_itself_and_always_alike(method: Method) -> None:
    windows = torch.cat([_window(0.7, seed=1), _window(1.2, seed=2), _window(0.9, seed=3)])
    together = normalise_tiatoolbox(windows, method)
    for k in range(3):
        assert torch.equal(normalise_tiatoolbox(windows[k : k + 1], method)[0], together[k])
    assert torch.equal(normalise_tiatoolbox(windows.flip(0), method).flip(0), together)


@pytest.mark.parametrize("method", METHODS)
def test_windows_without_stain_stay(method: Method) -> None:
    empty = torch.full((1, 3, 64, 64), 1.0)
    found = normalise_tiatoolbox(torch.cat([empty, _window(1.0)]), method)
    assert torch.equal(found[:1], empty)
    assert not torch.equal(found[1:], _window(1.0))


def test_windows_with_hardly_any_stain_do_not_turn_black() -> None:
    one_pixel = torch.full((1, 3, 64, 64), 1.0)
    one_pixel[0, :, 30, 30] = torch.tensor([0.3, 0.1, 0.5])
    one_colour = torch.full((1, 3, 64, 64), 1.0)
    one_colour[0, :, 20:40, 20:40] = torch.tensor([0.3, 0.1, 0.5])[:, None, None]
    for window in (one_pixel, one_colour):
        found = normalise_tiatoolbox(window, "macenko")
        assert torch.isfinite(found).all()
        assert found[0, :, :8, :8].min() > 0.9


def test_answers_and_training_prepare_alike() -> None:
    images = (_window(0.8).permute(0, 2, 3, 1) * 250).round().to(torch.uint8)
    background = torch.tensor([[250, 250, 250]], dtype=torch.uint8)
    answers = Preparation(stain="tiatoolbox:macenko").windows(images, background)
    assert torch.equal(answers, normalise_tiatoolbox(balance(images, background), "macenko"))
    changed = augment(
        images, background, torch.Generator().manual_seed(0), window_px=48, mpp=0.25, spec=AUGMENTATIONS["as-is"][0],
        stain="tiatoolbox:macenko",
    )  # fmt: skip
    plain = augment(
        images, background, torch.Generator().manual_seed(0), window_px=48, mpp=0.25, spec=AUGMENTATIONS["as-is"][0]
    )
    assert changed.shape == plain.shape == (1, 3, 48, 48)
    assert (changed - plain).abs().max() > 0.05


def test_the_card_keeps_the_method() -> None:
    preparation = Preparation(stain="tiatoolbox:reinhard", views=4)
    assert Preparation.of_card(preparation.to_card()) == preparation
    assert set(AUGMENTATIONS) == {"as-is", "nuclear-density", "tiatoolbox:macenko", "tiatoolbox:reinhard"}
