"""Train a compact flow network: seeded, resumable after a kill, on CPU or GPU.

The loss is Cellpose's (mean squared error of 5 x flow, binary cross-entropy of the cell probability) plus
cross-entropy of the kind, each only where the labels are known. Every step draws its crops from a generator
keyed by (seed, step), so a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wsi_pipeline.errors import DataError
from wsi_pipeline.segmentation.kinds import MEGAKARYOCYTE_KINDS
from wsi_pipeline.segmentation.networks import WIDTHS, CompactFlowNet
from wsi_pipeline.training.averaging import update_average
from wsi_pipeline.training.checkpoints import load_checkpoint, plain_recipe, save_checkpoint
from wsi_pipeline.training.precision import training_autocast
from wsi_pipeline.training.segmentation.augment import Crop, random_crop
from wsi_pipeline.training.segmentation.data import IGNORE, SECTION_KINDS, SET_SHARES, SMEAR_KINDS, Sample
from wsi_pipeline.weights import find_weights

TILE_PX, OVERLAP_PX = 256, 32
"""Tiles that runs give the networks."""

_CELL_CHANNEL = 2


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one compact network is trained.

    Attributes
    ----------
    mpp
        Nominal microns per pixel.
    scale_range
        Factors on it that crops are drawn at.
    side
        Side of a training crop, pixels.
    eosin
        Share of crops with pink ground laid under them.
    red_stain
        Share of crops whose red cells get a stain of their own.
    kind_weight
        Weight of the loss of the kinds.
    logit_offset
        Taken off the cell logit of the trained network, so that its outlines are neither loose nor tight at a
        threshold of 0; chosen on the validation split.
    megakaryocyte_offset
        Added to the logit of megakaryocytes of the trained network: they are so rare among the training nuclei that
        it never thinks them the likelier kind. Chosen on the training split.
    """

    kinds: tuple[str, ...]
    mpp: float
    scale_range: tuple[float, float]
    side: int = 224
    batch: int = 8
    eosin: float = 0.0
    red_stain: float = 0.0
    kind_weight: float = 0.5
    logit_offset: float = 0.0
    megakaryocyte_offset: float = 0.0
    steps: int = 2000
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    ema: float = 0.995
    seed: int = 0


RECIPES = {
    "compact-smear": Recipe(
        kinds=SMEAR_KINDS, mpp=0.25, scale_range=(0.6, 1.7), red_stain=0.6, kind_weight=1.0, steps=2400
    ),
    "compact-section": Recipe(
        kinds=SECTION_KINDS,
        mpp=0.5,
        scale_range=(0.4, 1.6),
        eosin=0.5,
        logit_offset=0.75,
        megakaryocyte_offset=2.6,
        steps=1600,
    ),
    "compact-megakaryocyte": Recipe(
        kinds=MEGAKARYOCYTE_KINDS,
        mpp=0.5,
        scale_range=(0.7, 1.5),
        side=160,
        batch=5,
        eosin=0.15,
        kind_weight=1.0,
        steps=800,
        learning_rate=1.5e-3,
    ),
}


STARTS_FROM = {"compact-megakaryocyte": "compact-section"}
"""Shipped networks whose training starts from the weights of another, all but the last layer."""


def initial_weights(name: str) -> dict[str, Tensor] | None:
    """Return the weights that the training of a shipped network starts from; None where it starts at random."""
    if name not in STARTS_FROM:
        return None
    from safetensors.torch import load_file

    weights = load_file(find_weights(STARTS_FROM[name], "segmentation").path)
    return {key: value for key, value in weights.items() if not key.startswith("head.")}


def network_details(recipe: Recipe) -> dict[str, Any]:
    """Return the entries of a card that a run needs to use a network of this recipe, and the recipe itself."""
    return {
        "kinds": list(recipe.kinds),
        "tile_px": TILE_PX,
        "overlap_px": OVERLAP_PX,
        "widths": list(WIDTHS),
        "simulated": False,
        "recipe": plain_recipe(recipe),
    }


def losses(
    output: Tensor, flows: Tensor, cell: Tensor, kinds: Tensor, known: Tensor, *, kind_weight: float = 0.5
) -> Tensor:
    """Return the training loss of a batch.

    Parameters
    ----------
    output
        ``(n, 3 + k, t, t)`` network output; of a network without kinds they are no part of the loss.
    flows, cell, kinds, known
        The stacked fields of :class:`Crop`.
    """
    weight = known.sum().clamp(min=1)
    flow = (((output[:, :2] - flows) ** 2).sum(1) * known).sum() / weight
    probability = nn.functional.binary_cross_entropy_with_logits(output[:, 2], cell, reduction="none")
    outline = 0.25 * flow + (probability * known).sum() / weight
    if output.shape[1] == _CELL_CHANNEL + 1:
        return outline
    return outline + kind_weight * nn.functional.cross_entropy(output[:, 3:], kinds, ignore_index=IGNORE)


def loss_on(forward: Callable[[Tensor], Tensor], crops: Sequence[Crop], recipe: Recipe, device: str) -> Tensor:
    """Return the training loss of a batch of crops, with the network's products in bfloat16.

    Parameters
    ----------
    forward
        Maps ``(n, 3, t, t)`` images to ``(n, 3 + k, t, t)`` output.
    """
    image = torch.from_numpy(np.stack([c.image for c in crops])).to(device, memory_format=torch.channels_last)
    with training_autocast(device):
        output = forward(image)
    return losses(
        output.float(),
        torch.from_numpy(np.stack([c.flows for c in crops])).to(device),
        torch.from_numpy(np.stack([c.cell for c in crops])).to(device),
        torch.from_numpy(np.stack([c.kinds for c in crops])).to(device),
        torch.from_numpy(np.stack([c.known for c in crops])).to(device),
        kind_weight=recipe.kind_weight,
    )


def sampling_weights(samples: Sequence[Sample]) -> np.ndarray:
    """Return the chance of drawing each field: the share of its set, spread over the set's fields."""
    sets = [s.name.split("/", 1)[0] for s in samples]
    weights = np.array([SET_SHARES.get(name, 1.0) / sets.count(name) for name in sets])
    return weights / weights.sum()


_AIMED_AT = {
    SMEAR_KINDS: "white_nucleus",
    SECTION_KINDS: "megakaryocyte",
    MEGAKARYOCYTE_KINDS: "megakaryocyte_nucleus",
}


def _centre_on_cell(sample: Sample, kinds: tuple[str, ...], rng: np.random.Generator) -> tuple[float, float] | None:
    """Aim half of the crops of a field at a white cell or a megakaryocyte, so that those are seen whole."""
    if kinds not in _AIMED_AT:
        return None
    ys, xs = np.nonzero(sample.kinds == kinds.index(_AIMED_AT[kinds]))
    if len(ys) == 0 or rng.random() < 0.5:
        return None
    pick = int(rng.integers(len(ys)))
    return float(xs[pick] + rng.normal(0, 20)), float(ys[pick] + rng.normal(0, 20))


def batch_of(samples: Sequence[Sample], recipe: Recipe, step: int) -> list[Crop]:
    """Return the crops of a step, a function of (seed, step) alone."""
    rng = np.random.default_rng((recipe.seed, step))
    weights = sampling_weights(samples)
    crops = []
    for index in rng.choice(len(samples), recipe.batch, p=weights):
        sample = samples[index]
        crops.append(
            random_crop(
                sample, rng, side=recipe.side, mpp=recipe.mpp, scale_range=recipe.scale_range, eosin=recipe.eosin,
                red_stain=recipe.red_stain,
                centre=_centre_on_cell(sample, recipe.kinds, rng),
            )
        )  # fmt: skip
    return crops


def train_segmentation(
    samples: Sequence[Sample],
    out: Path,
    recipe: Recipe,
    *,
    device: str = "cpu",
    report: Callable[[str], None],
    checkpoint_every: int = 100,
    data_digest: str | None = None,
    initial: Mapping[str, Tensor] | None = None,
) -> CompactFlowNet:
    """Train on the ``train`` fields of ``samples`` and return the averaged (EMA) network, its logit set off.

    Parameters
    ----------
    out
        Folder of the checkpoint; a run killed at any moment continues from it.
    report
        Receives progress lines.
    data_digest
        Names the data (and what else decides the result); a checkpoint made from other data is refused.
    initial
        Weights to start from, by name; layers it lacks start at random.

    Raises
    ------
    DataError
        The checkpoint is damaged, or of another recipe, network or data.
    """
    torch.manual_seed(recipe.seed)
    training = [s for s in samples if s.split == "train"]
    network = CompactFlowNet(len(recipe.kinds)).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if initial is not None:
        network.load_state_dict({**network.state_dict(), **initial})
    average = copy.deepcopy(network).eval()
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    network.train()
    run_steps(
        lambda step: loss_on(network, batch_of(training, recipe, step), recipe, device),
        {"live": network, "average": average},
        optimiser,
        recipe,
        checkpoint=out / "checkpoint.safetensors",
        checkpoint_every=checkpoint_every,
        data_digest=data_digest,
        report=report,
        after=lambda step: update_average(average, network, min(recipe.ema, (1 + step) / (10 + step))),
    )
    with torch.no_grad():
        average.head.bias[_CELL_CHANNEL] -= recipe.logit_offset
        if "megakaryocyte" in recipe.kinds:
            average.head.bias[_CELL_CHANNEL + 1 + recipe.kinds.index("megakaryocyte")] += recipe.megakaryocyte_offset
    return average


def run_steps(
    loss_of: Callable[[int], Tensor],
    networks: dict[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    recipe: Recipe,
    *,
    checkpoint: Path,
    checkpoint_every: int,
    data_digest: str | None,
    report: Callable[[str], None],
    after: Callable[[int], None] = lambda _: None,
) -> None:
    """Take the steps of a recipe from where the checkpoint stands, and write it anew every so often and at the end.

    Parameters
    ----------
    loss_of
        Returns the loss of a step, counted from 0.
    networks
        What the checkpoint holds, by name; the optimiser's parameters are of some of them.
    after
        Called with the number of steps taken, after each.

    Raises
    ------
    DataError
        The checkpoint is damaged, or of another recipe, network or data.
    """
    step = _resume(checkpoint, networks, optimiser, recipe, data_digest, report)
    tuned = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    recent: list[float] = []
    started, first = time.monotonic(), step
    while step < recipe.steps:
        for group in optimiser.param_groups:
            group["lr"] = _learning_rate(recipe, step)
        loss = loss_of(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(tuned, 5.0)
        optimiser.step()
        step += 1
        after(step)
        recent.append(loss.item())
        if step % checkpoint_every == 0 or step == recipe.steps:
            save_checkpoint(
                checkpoint,
                step=step,
                networks=networks,
                optimiser=optimiser,
                extra={"recipe": plain_recipe(recipe), "data_digest": data_digest},
            )
            rate = (step - first) / (time.monotonic() - started)
            left = (recipe.steps - step) / rate / 60
            report(f"step {step}/{recipe.steps}  loss {np.mean(recent):.3f}  {rate:.2f} steps/s  {left:.0f} min left")
            recent.clear()


def _resume(
    checkpoint: Path,
    networks: dict[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    recipe: Recipe,
    data_digest: str | None,
    report: Callable[[str], None],
) -> int:
    """Restore networks and optimiser from a checkpoint, and return its step; 0 where there is none.

    Raises
    ------
    DataError
        The checkpoint is damaged, or of another recipe, network or data.
    """
    if not checkpoint.is_file():
        return 0
    step, extra = load_checkpoint(checkpoint, networks=networks, optimiser=optimiser)
    if _steps_of(extra["recipe"]) != _steps_of(plain_recipe(recipe)):
        raise DataError(f"{checkpoint} was written by another recipe; choose another --out or remove it")
    if extra.get("data_digest") != data_digest:
        raise DataError(f"{checkpoint} was written from other data; choose another --out or remove it")
    report(f"resumed at step {step} of {recipe.steps}")
    return step


def _steps_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a recipe decides its steps: a checkpoint is good for any offset, which come after the last.

    A recipe of an earlier version lacks the fields that came later; their defaults are what it did.
    """
    defaults = {field.name: field.default for field in fields(Recipe) if field.default is not MISSING}
    return {k: v for k, v in {**defaults, **recipe}.items() if not k.endswith("_offset")}


def _learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step: 100 steps of warming up, then half a cosine down to 2 %."""
    warm = min(1.0, (step + 1) / 100)
    return recipe.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / recipe.steps)))
