"""Train a cell classifier: seeded, resumable after a kill, on CPU or GPU.

Every epoch draws its cells and their changes from a generator keyed by (seed, epoch), so that a resumed run
sees what an uninterrupted one would have seen. The averaged weights (EMA) of the epoch with the best macro-F1
on the validation split are kept; the test split is looked at once, after that choice.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from wsi_pipeline.cells.attributes import AttributedNetwork, masked_loss
from wsi_pipeline.cells.backbones import Network
from wsi_pipeline.cells.network import CellNetwork, NetworkSpec, initialise
from wsi_pipeline.cells.preparation import Preparation, Stain
from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.simulation.split import is_reserved
from wsi_pipeline.training.averaging import update_average
from wsi_pipeline.training.cells.augment import FAR, NEAR, AugmentSpec, augment_in_turn
from wsi_pipeline.training.cells.data import PackedCells
from wsi_pipeline.training.cells.mixing import Mixing, mix
from wsi_pipeline.training.checkpoints import load_checkpoint, plain_recipe, save_checkpoint
from wsi_pipeline.training.precision import training_autocast
from wsi_pipeline.training.splits import near_duplicate_groups, split_by_group
from wsi_pipeline.training.synthetic.guard import check_synthetic_in_train

ARTEFACT, PLATELET = "artefact", "platelet"
_NEVER_SMUDGED = frozenset({PLATELET, ARTEFACT})
_FINE_TUNING = 0.5
"""Share of the learning rate when the training starts from an earlier network."""

AUGMENTATIONS: dict[Stain, tuple[AugmentSpec, ...]] = {
    "as-is": (AugmentSpec(),),
    "nuclear-density": (NEAR, FAR),
    "tiatoolbox:macenko": (NEAR, FAR),
    "tiatoolbox:reinhard": (NEAR, FAR),
}
"""Changes that training takes by default, by how the stain is prepared."""


@dataclass(frozen=True, kw_only=True)
class CellRecipe:
    """How a cell classifier is trained.

    Parameters
    ----------
    window_px, mpp
        Side of the window the network sees, and its resolution, um per pixel.
    side_px
        Side of the packed images: the window and room to turn and shift it.
    stain, views
        How windows are prepared, and how often each is looked at for an answer
        (:class:`~wsi_pipeline.cells.preparation.Preparation`); training looks once, at a random view.
    draws
        Cells drawn per epoch; 0 takes as many as there are.
    smudge_share
        Share of the drawn cells that is bent and blurred beyond recognition and called artefact, where the
        classes have one.
    """

    window_px: int = 96
    mpp: float = 0.25
    side_px: int = 144
    stem: int = 32
    widths: tuple[int, ...] = (32, 48, 96, 160)
    depths: tuple[int, ...] = (0, 2, 2, 2)
    embedding_dim: int = 128
    epochs: int = 24
    draws: int = 0
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    dropout: float = 0.2
    ema: float = 0.998
    smudge_share: float = 0.015
    seed: int = 0
    stain: Stain = "nuclear-density"
    views: int = 4

    @property
    def preparation(self) -> Preparation:
        """Return how the trained classifier looks at a window."""
        return Preparation(stain=self.stain, views=self.views)

    def network(self, n_classes: int) -> NetworkSpec:
        """Return the description of the network for ``n_classes``."""
        return NetworkSpec(
            n_classes=n_classes,
            stem=self.stem,
            widths=self.widths,
            depths=self.depths,
            embedding_dim=self.embedding_dim,
        )


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The chosen network with its history: one record an epoch."""

    network: Network | AttributedNetwork
    classes: tuple[str, ...]
    best_epoch: int
    history: list[dict[str, float]]


def split_cells(cells: PackedCells, *, window_px: int) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.int64]]:
    """Return the split and the near-duplicate group of each cell.

    Cells the simulator is built from (:func:`~wsi_pipeline.simulation.split.is_reserved`) go to test with
    their groups.
    """
    groups = look_alike_groups(cells, window_px)
    held_out = np.array([is_reserved(name) for name in cells.files.tolist()])
    return split_by_group(groups, cells.digests.tolist(), held_out=held_out), groups


def look_alike_groups(cells: PackedCells, window_px: int) -> npt.NDArray[np.int64]:
    """Return a group number per cell; near-duplicates and cut-outs of one file share one.

    Compared are the middles, a sixth narrower than the window, moved by up to three sixteenths of it.
    """
    return near_duplicate_groups(
        cells.images, window_px=5 * window_px // 6, reach_px=3 * window_px // 16, together=cells.fields
    )


def sampling_weights(labels: npt.NDArray[np.int64], sources: npt.NDArray[np.str_]) -> npt.NDArray[np.float64]:
    """Return the chance of drawing each cell: between even classes and the classes as found.

    A class is drawn in proportion to the square root of its size, and within it each set of images likewise,
    so that neither rare classes nor small sets drown.
    """
    weights = np.zeros(len(labels))
    for label in np.unique(labels):
        members = labels == label
        _, index, counts = np.unique(sources[members], return_inverse=True, return_counts=True)
        share = np.sqrt(counts) / np.sqrt(counts).sum()
        weights[members] = math.sqrt(members.sum()) * (share / counts)[index]
    return weights / weights.sum()


def fit(
    cells: PackedCells,
    split: npt.NDArray[np.str_],
    classes: tuple[str, ...],
    out: Path,
    recipe: CellRecipe,
    *,
    device: str = "cpu",
    resume: bool = True,
    augmentations: Sequence[AugmentSpec] | None = None,
    start_from: Mapping[str, torch.Tensor] | None = None,
    build: Callable[[], Network] | None = None,
    mixing: Mixing | None = None,
    patience: int = 0,
    also: Mapping[str, Any] | None = None,
    attributes: npt.NDArray[np.int8] | None = None,
    partial: Mapping[str, Sequence[str]] | None = None,
    report: Callable[[str], None],
) -> Fitted:
    """Train on the cells of split ``train``, choose the epoch on ``val``.

    Parameters
    ----------
    cells, split
        The packed cells and the split of each.
    classes
        Order of the outputs; every class needs training cells.
    out
        Folder of the checkpoint. A run killed at any moment continues after its last whole epoch.
    resume
        False starts again.
    augmentations
        Strengths of the random changes, each for an equal part of every batch; None takes those that fit the
        recipe's stain.
    start_from
        Tensors of an earlier network. Those of equal name and shape are taken over, the rest starts afresh (a new
        residual block as the identity); the learning rate is then halved.
    build
        Returns another network than the recipe's compact one, with its first weights; it is called once, after
        torch's generator was seeded.
    mixing
        Mix pairs of images; None does not.
    patience
        Stop after this many epochs without a better one; 0 trains all epochs.
    also
        What else a checkpoint must have been written with to be gone on with, as JSON holds it.
    attributes
        ``(n, k)`` labels of attributes of all cells: 1 present, 0 absent, -1 unknown. They get a head of their own,
        whose loss is the mean over the known labels of a batch, added to that of the classes. The epoch is chosen by
        the classes. Images are not mixed then.
    partial
        Labels that say only that a cell is of one of several classes; their loss is the negative logarithm of the sum
        of those probabilities. They are for training alone. Images are not mixed then.
    report
        Receives progress lines.

    Raises
    ------
    DataError
        A class has no training cells, generated images are outside the training part, or the checkpoint belongs to
        another recipe.
    """
    augmentations = augmentations or AUGMENTATIONS[recipe.stain]
    check_synthetic_in_train(cells.sources, split)
    rank = {name: i for i, name in enumerate(classes)}
    partial = partial or {}
    if partial and mixing is not None:
        raise ConfigError("labels that leave the class open go without mixup and CutMix")
    # Open labels have the numbers after the classes'; a row of `possible` for each says which classes they may be.
    number = rank | {name: len(classes) + i for i, name in enumerate(partial)}
    possible = torch.tensor([[name in may_be for name in classes] for may_be in partial.values()], device=device)
    labels = np.array([number[name] for name in cells.class_names.tolist()], dtype=np.int64)
    train, val = np.flatnonzero(split == "train"), np.flatnonzero(split == "val")
    empty = [name for name, i in rank.items() if not (labels[train] == i).any()]
    if empty or not len(val):
        raise DataError(
            f"no training images for {', '.join(empty) or 'validation'}; "
            "every class needs some ten images, so that train, validation and test each get one"
        )
    weights = sampling_weights(labels[train], cells.sources[train])
    draws = recipe.draws or len(train)
    batches = math.ceil(draws / recipe.batch)
    torch.manual_seed(recipe.seed)
    network: Network | AttributedNetwork
    if build is None:
        network = CellNetwork(recipe.network(len(classes)), dropout=recipe.dropout)
        initialise(network, recipe.seed)
    else:
        network = build()
    peak = recipe.learning_rate
    if start_from is not None:
        taken = _take_over(network, start_from)
        report(f"took over {taken} of {len(network.state_dict())} tensors")
        peak *= _FINE_TUNING
    if attributes is not None:
        network = AttributedNetwork(network, attributes.shape[1], recipe.seed)
    network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average, best = copy.deepcopy(network).eval(), copy.deepcopy(network).eval()
    optimiser = torch.optim.AdamW(_parameter_groups(network, recipe), lr=peak)
    identity: dict[str, Any] = {"recipe": plain_recipe(recipe), "augmentations": [asdict(a) for a in augmentations]}
    identity |= {"classes": list(classes), "cells": _digest_of(cells, train), "fine_tuned": start_from is not None}
    if build is not None:
        identity["network"] = network.spec.to_dict()
    if mixing is not None:
        identity["mixing"] = asdict(mixing)
    identity |= also or {}
    if partial:
        identity["partial"] = {name: list(may_be) for name, may_be in partial.items()}
    if attributes is not None:
        identity["attributes"] = hashlib.sha256(attributes.tobytes()).hexdigest()
    checkpoint = out / "checkpoint.safetensors"
    history: list[dict[str, float]] = []
    networks: dict[str, nn.Module] = {"live": network, "average": average, "best": best}
    if checkpoint.is_file() and resume:
        _, extra = load_checkpoint(checkpoint, networks=networks, optimiser=optimiser)
        if extra["identity"] != identity:
            raise DataError(f"{checkpoint} was written by another recipe or data; choose another folder or remove it")
        history = extra["history"]
        report(f"resumed after epoch {len(history)} of {recipe.epochs}")
    has_artefact = ARTEFACT in rank
    whole = np.array([name not in _NEVER_SMUDGED for name in cells.class_names[train].tolist()])
    for epoch in range(len(history), recipe.epochs):
        if patience and _epochs_without_gain(history) >= patience:
            report(f"stopped after epoch {epoch}: no gain for {patience} epochs")
            break
        started = time.monotonic()
        rng = np.random.default_rng((recipe.seed, epoch))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        torch.manual_seed(int(rng.integers(2**62)))  # dropout
        chosen = rng.choice(len(train), batches * recipe.batch, p=weights)
        network.train()
        losses = []
        for batch in range(batches):
            step = epoch * batches + batch
            for group in optimiser.param_groups:
                group["lr"] = peak * _schedule(step, batches, recipe.epochs)
            part = chosen[batch * recipe.batch : (batch + 1) * recipe.batch]
            smudge = torch.from_numpy((rng.random(len(part)) < recipe.smudge_share) & whole[part] & has_artefact)
            index = train[part]
            target = torch.from_numpy(labels[index])
            if has_artefact:
                target = torch.where(smudge, rank[ARTEFACT], target)
            window = augment_in_turn(
                torch.from_numpy(cells.images[index]),
                torch.from_numpy(cells.background[index]),
                generator,
                window_px=recipe.window_px,
                mpp=recipe.mpp,
                specs=augmentations,
                stain=recipe.stain,
                smudge=smudge,
            ).to(device)
            if mixing is not None:
                window, target = mix(window, target, len(classes), generator, mixing)
            with training_autocast(device):
                answer = network(window)
            logits = answer if attributes is None else answer[0]
            loss = _loss(logits.float(), target.to(device), possible, recipe.label_smoothing)
            if attributes is not None:
                # Nobody has labelled what smudging leaves of a cell.
                known = torch.from_numpy(attributes[index]).masked_fill(smudge[:, None], -1)
                loss = loss + masked_loss(answer[1].float(), known.to(device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()
            update_average(average, network, min(recipe.ema, (1 + step) / (10 + step)))
            losses.append(loss.item())
        answers = logits_of(average, cells, val, recipe, device=device).argmax(axis=1)
        score = _macro_f1(labels[val], answers)
        if not history or score > max(h["val_macro_f1"] for h in history):
            best.load_state_dict(average.state_dict())
        history.append({"loss": float(np.mean(losses)), "val_macro_f1": score})
        save_checkpoint(
            checkpoint,
            step=(epoch + 1) * batches,
            networks=networks,
            optimiser=optimiser,
            extra={"identity": identity, "history": history},
        )
        seconds = time.monotonic() - started
        report(
            f"epoch {epoch + 1}/{recipe.epochs}  loss {history[-1]['loss']:.3f}  val macro-F1 {score:.3f}  "
            f"{draws / seconds:.0f} cells/s  {(recipe.epochs - epoch - 1) * seconds / 60:.0f} min left"
        )
    scores = [h["val_macro_f1"] for h in history]
    return Fitted(network=best, classes=classes, best_epoch=int(np.argmax(scores)) + 1, history=history)


def _digest_of(cells: PackedCells, index: npt.NDArray[np.int64]) -> str:
    """Return a hash of the pixels and labels that are trained on."""
    lines = zip(cells.digests[index].tolist(), cells.class_names[index].tolist(), strict=True)
    return hashlib.sha256("\n".join(f"{digest} {name}" for digest, name in lines).encode()).hexdigest()


def _loss(logits: torch.Tensor, target: torch.Tensor, possible: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Return the mean loss; targets numbered after the classes are rows of ``possible``, bool ``(k, classes)``."""
    n_classes = logits.shape[1]
    if target.ndim > 1 or not len(possible):
        return nn.functional.cross_entropy(logits, target, label_smoothing=label_smoothing)
    is_open = target >= n_classes
    known = nn.functional.cross_entropy(
        logits, target.clamp(max=n_classes - 1), label_smoothing=label_smoothing, reduction="none"
    )
    may_be = possible[(target - n_classes).clamp(min=0)]
    log_p = torch.log_softmax(logits, dim=1).masked_fill(~may_be, -torch.inf)
    return torch.where(is_open, -torch.logsumexp(log_p, dim=1), known).mean()


def logits_of(
    network: Network | AttributedNetwork,
    cells: PackedCells,
    index: npt.NDArray[np.int64],
    recipe: CellRecipe,
    *,
    device: str = "cpu",
    batch: int = 64,
) -> npt.NDArray[np.float32]:
    """Return float32 logits ``(len(index), n_classes)`` of cells without random changes, as a classifier sees them."""
    preparation = recipe.preparation
    rows = []
    with torch.inference_mode():
        for start in range(0, len(index), batch):
            part = index[start : start + batch]
            window = cells.windows(recipe.window_px, part)
            rgb = preparation.windows(torch.from_numpy(window), torch.from_numpy(cells.background[part])).to(device)
            rows.append(preparation.look(network, rgb)[1].float().cpu().numpy())
    return np.concatenate(rows)


def _macro_f1(truth: npt.NDArray[np.int64], answers: npt.NDArray[np.int64]) -> float:
    scores = []
    for label in np.unique(truth):
        hit = int(((answers == label) & (truth == label)).sum())
        scores.append(2 * hit / int((answers == label).sum() + (truth == label).sum()))
    return float(np.mean(scores))


def _parameter_groups(network: nn.Module, recipe: CellRecipe) -> list[dict[str, Any]]:
    """Weight decay on weights, none on biases and normalisation."""
    matrices = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def _epochs_without_gain(history: list[dict[str, float]]) -> int:
    scores = [h["val_macro_f1"] for h in history]
    return len(scores) - 1 - int(np.argmax(scores)) if scores else 0


def _schedule(step: int, batches: int, epochs: int) -> float:
    """Return the share of the peak learning rate: an epoch of warming up, then half a cosine down to 1 %."""
    warm = min(1.0, (step + 1) / batches)
    return warm * (0.01 + 0.495 * (1 + math.cos(math.pi * step / (batches * epochs))))


@torch.no_grad()
def _take_over(network: nn.Module, earlier: Mapping[str, torch.Tensor]) -> int:
    """Copy tensors of equal name and shape into the network and return how many there were."""
    taken = 0
    for name, value in network.state_dict().items():
        if name in earlier and earlier[name].shape == value.shape:
            value.copy_(earlier[name])
            taken += 1
    return taken
