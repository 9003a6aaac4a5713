"""Train the members of slide-level models that look at each cell: small networks, strongly held back.

Each step sees a random part of each patient's cells (instance dropout), by labels or as they look without them, through
a dropout of the inputs, with weight decay; labels are smoothed. What is trained has some thousand parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from wsi_pipeline.predictions.slide_models.frame import CellFrame
from wsi_pipeline.predictions.slide_models.networks import AttentionMember, CellReader, MorphotypeMember
from wsi_pipeline.predictions.slide_models.subject import Subject

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class NetworkRecipe:
    """How the networks are trained.

    Parameters
    ----------
    hidden, types
        Width of the attention, and number of morphotypes.
    steps, rate, decay
        Of AdamW; the rate falls to 0 along a cosine.
    cells
        Cells of each patient a step.
    dropout
        Share of a cell's numbers that are set to 0 in a step.
    smoothing
        Of the labels.
    """

    hidden: int = 16
    types: int = 8
    steps: int = 100
    rate: float = 0.01
    decay: float = 0.05
    cells: int = 32
    dropout: float = 0.2
    smoothing: float = 0.05


RECIPE = NetworkRecipe()


def train_network(
    kind: str,
    frame: CellFrame,
    subjects: Sequence[Subject],
    labels: IntArray,
    *,
    n_classes: int,
    focus: bool,
    seed: int,
    recipe: NetworkRecipe = RECIPE,
) -> AttentionMember | MorphotypeMember:
    """Return a trained member.

    Parameters
    ----------
    kind
        ``attention`` or ``morphotypes``.
    frame
        Fitted to the same subjects.
    labels
        ``(n,)``.
    focus
        Whether immature cells weigh more from the start.
    """
    reader = CellReader(frame=frame, focus=focus)
    tables, priors = [], []
    for v in range(max(len(s.views) for s in subjects)):
        views = [s.views[min(v, len(s.views) - 1)] for s in subjects]
        read = np.concatenate([reader.read(s, view) for s, view in zip(subjects, views, strict=True)])
        tables.append(torch.from_numpy(read.astype(np.float32)))
        priors.append(torch.from_numpy(np.concatenate([reader.prior(view) for view in views]).astype(np.float32)))
    sizes = torch.tensor([len(s.bag) for s in subjects])
    starts = torch.cumsum(sizes, 0) - sizes
    draw = torch.Generator().manual_seed(seed)
    net = (_attention if kind == "attention" else _morphotypes)(reader.dim, n_classes, recipe, draw)
    optimiser = torch.optim.AdamW(net.values(), lr=recipe.rate, weight_decay=recipe.decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps)
    target = torch.from_numpy(labels)
    share = torch.bincount(target, minlength=n_classes).float() / len(target)
    forward = _attend if kind == "attention" else _mix
    for _ in range(recipe.steps):
        place = (torch.rand(len(subjects), recipe.cells, generator=draw) * sizes[:, None]).long() + starts[:, None]
        x, prior = tables[0][place], priors[0][place]
        if len(tables) > 1:
            other = torch.rand(len(subjects), generator=draw) < 0.5
            x = torch.where(other[:, None, None], tables[1][place], x)
            prior = torch.where(other[:, None], priors[1][place], prior)
        keep = torch.rand(x.shape, generator=draw) >= recipe.dropout
        margins = forward(net, x * keep / (1 - recipe.dropout), prior) + torch.log(share)
        loss = torch.nn.functional.cross_entropy(margins, target, label_smoothing=recipe.smoothing)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    arrays = {key: value.detach().numpy().astype(np.float64) for key, value in net.items()}
    arrays["bias"] = arrays["bias"] + np.log(share.numpy().astype(np.float64))
    made = AttentionMember if kind == "attention" else MorphotypeMember
    return made(name=kind, reader=reader, arrays=arrays)


def _attention(d: int, n_classes: int, recipe: NetworkRecipe, draw: torch.Generator) -> dict[str, torch.Tensor]:
    h = recipe.hidden
    return {
        "v": _drawn((d, h), draw),
        "v_bias": _zeros(h),
        "u": _drawn((d, h), draw),
        "u_bias": _zeros(h),
        "w": _drawn((h, 1), draw)[:, 0].detach().clone().requires_grad_(),
        "head": _drawn((d, n_classes), draw, 0.1),
        "bias": _zeros(n_classes),
    }


def _attend(net: dict[str, torch.Tensor], x: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    gate = torch.sigmoid(x @ net["u"] + net["u_bias"])
    scores = (torch.tanh(x @ net["v"] + net["v_bias"]) * gate) @ net["w"]
    share = torch.softmax(scores + torch.log(prior), dim=1)
    return (share[..., None] * x).sum(dim=1) @ net["head"] + net["bias"]


def _morphotypes(d: int, n_classes: int, recipe: NetworkRecipe, draw: torch.Generator) -> dict[str, torch.Tensor]:
    return {
        "types": _drawn((d, recipe.types), draw),
        "types_bias": _zeros(recipe.types),
        "head": _drawn((recipe.types, n_classes), draw),
        "bias": _zeros(n_classes),
    }


def _mix(net: dict[str, torch.Tensor], x: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    share = (prior / prior.sum(dim=1, keepdim=True))[..., None]
    types = torch.softmax(x @ net["types"] + net["types_bias"], dim=-1)
    return (share * types).sum(dim=1) @ net["head"] + net["bias"]


def _drawn(shape: tuple[int, int], draw: torch.Generator, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(shape, generator=draw) * scale / shape[0] ** 0.5).requires_grad_()


def _zeros(n: int) -> torch.Tensor:
    return torch.zeros(n, requires_grad=True)
