"""One stain for all laboratories, and several views of one window."""

from __future__ import annotations

import pytest
import torch

from wsi_pipeline.cells.network import CellNetwork, NetworkSpec, balance, initialise
from wsi_pipeline.cells.preparation import Preparation
from wsi_pipeline.cells.stain import NUCLEAR_DENSITY, normalise_stain, nuclear_density, optical_density
from wsi_pipeline.cells.views import views_of
from wsi_pipeline.errors import ConfigError

LIGHT = torch.tensor([[250, 245, 240]], dtype=torch.uint8)


def _cell(nucleus: tuple[float, float, float], cytoplasm: tuple[float, float, float]) -> torch.Tensor:
    """A round nucleus in a round cell on an empty background, as optical densities of its three parts."""
    axis = torch.arange(64) + 0.5 - 32
    radius = torch.sqrt(axis[None] ** 2 + axis[:, None] ** 2)
    zero = torch.zeros(3, 1, 1)
    density = torch.where(radius < 20, torch.tensor(cytoplasm)[:, None, None], zero)
    density = torch.where(radius < 13, torch.tensor(nucleus)[:, None, None], density)
    return torch.exp(-density)[None]


def test_one_cell_in_two_stains_looks_the_same() -> None:
    pale = _cell((0.8, 1.4, 0.4), (0.3, 0.4, 0.1))
    gain = torch.tensor([1.5, 1.2, 0.7])
    dark = _cell((1.2, 1.68, 0.28), (0.45, 0.48, 0.07))
    assert torch.allclose(optical_density(dark), optical_density(pale) * gain[:, None, None], atol=1e-5)
    assert (pale - dark).abs().max() > 0.1
    torch.testing.assert_close(normalise_stain(pale), normalise_stain(dark), atol=1e-5, rtol=0)
    reached = nuclear_density(optical_density(normalise_stain(dark)))[0]
    torch.testing.assert_close(reached, torch.tensor(NUCLEAR_DENSITY), atol=1e-4, rtol=0)


def test_cells_that_differ_within_stay_different() -> None:
    red = normalise_stain(_cell((1.2, 2.0, 0.5), (0.2, 0.9, 0.5)))
    blue = normalise_stain(_cell((1.2, 2.0, 0.5), (0.6, 0.4, 0.1)))
    assert (red - blue).abs().max() > 0.2


def test_an_empty_window_is_not_blown_up() -> None:
    empty = torch.full((1, 3, 64, 64), 0.98)
    assert normalise_stain(empty).min() > 0.94


def test_a_window_is_normalised_by_itself() -> None:
    cells = torch.cat([_cell((0.8, 1.4, 0.4), (0.3, 0.4, 0.1)), _cell((2.0, 2.4, 0.6), (0.1, 0.3, 0.2))])
    together = normalise_stain(cells)
    for k in range(2):
        assert torch.equal(normalise_stain(cells[k : k + 1])[0], together[k])


def test_eight_views_are_the_symmetries_of_a_square() -> None:
    window = torch.arange(9.0).reshape(1, 1, 3, 3)
    views = [v.flatten().tolist() for v in views_of(window, 8)]
    assert views[0] == window.flatten().tolist()
    assert len({tuple(v) for v in views}) == 8
    turned = {tuple(torch.rot90(window, k, (2, 3)).flatten().tolist()) for k in range(4)}
    assert turned < {tuple(v) for v in views}


@pytest.mark.parametrize("count", [2, 4, 8])
def test_the_answer_does_not_depend_on_which_of_the_views_is_shown(count: int) -> None:
    network = CellNetwork(NetworkSpec(n_classes=3, stem=8, widths=(8, 16), depths=(1, 1), embedding_dim=8))
    initialise(network, 0)
    network.eval()
    seen = Preparation(stain="nuclear-density", views=count)
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        answers = [
            seen.look(network, seen.windows(image, LIGHT))
            for image in (view.permute(0, 2, 3, 1) for view in views_of(images.permute(0, 3, 1, 2), count))
        ]
        once = Preparation().look(network, balance(images, LIGHT))[1]
    for embedding, logits in answers[1:]:
        torch.testing.assert_close(embedding, answers[0][0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(logits, answers[0][1], atol=1e-5, rtol=1e-4)
    assert (answers[0][1] - once).abs().max() > 1e-4


def test_a_card_carries_the_preparation() -> None:
    seen = Preparation(stain="nuclear-density", views=4)
    assert Preparation.of_card({"taxonomy": "pbc", **seen.to_card()}) == seen
    assert Preparation.of_card({"taxonomy": "pbc"}) == Preparation()


@pytest.mark.parametrize(("wrong", "what"), [({"views": 3}, "3 views"), ({"stain": "macenko"}, "macenko")])
def test_what_is_no_preparation_is_refused(wrong: dict, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        Preparation.of_card(wrong)
