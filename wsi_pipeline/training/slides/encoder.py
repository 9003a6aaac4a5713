"""Tune the cell network to labels of subjects: weak labels, which say of no single cell what it shows.

The first stages stay as they are. What they give of every immature cell, as it is and changed at random a few times, is
computed once a cohort and serves all folds, seeds and calibrations: it knows no labels. Only the last stage and a
linear layer learn, a few hundred steps at a small rate, so that a hundred patients take minutes without a GPU.

Every step draws as many subjects of each class, and as many cells of each subject: nobody counts more for having more
cells. Each cell bears the label of its subject, smoothed, for many a cell of a patient looks like those of any other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from wsi_pipeline.cells.classifier import CellClassifier
from wsi_pipeline.cells.network import CellNetwork
from wsi_pipeline.errors import ConfigError, DataError, some
from wsi_pipeline.predictions.bags.bag import CellBag
from wsi_pipeline.predictions.slide_models.cell_windows import CellWindows, read_windows
from wsi_pipeline.predictions.slide_models.encoder import (
    EncoderSpec,
    FrozenMaps,
    TunedEncoder,
    Tuning,
    bag_key,
    immature_rows,
    trunk_maps,
)
from wsi_pipeline.predictions.slide_models.encoder_member import EncoderMember
from wsi_pipeline.training.averaging import update_average
from wsi_pipeline.training.cells.augment import FAR, NEAR, augment
from wsi_pipeline.training.precision import training_autocast

_ROOM = 1.5
"""Side of the windows that are changed at random, over that which the network sees."""
_BATCH = 64
MOST_BYTES = 1_200_000_000
"""Of all maps of a cohort."""


@dataclass(frozen=True, kw_only=True)
class EncoderRecipe:
    """How an encoder is tuned.

    Parameters
    ----------
    frozen_stages
        Stages of the network that stay; the compact network has four.
    cells
        Immature cells of a subject that are looked at, at most.
    views
        Looks at each cell that are learnt from: as it is, then changed at random, near and far in turn
        (:mod:`wsi_pipeline.training.cells.augment`).
    steps, subjects, draws
        Steps, subjects a step (as many of each class), and cells of each.
    learning_rate, head_rate
        Peaks of the stage's and of the linear layer's; warmed up, then half a cosine.
    tunings
        Seeds that are averaged; a model has one in each of its folds.
    """

    frozen_stages: int = 3
    cells: int = 64
    views: int = 4
    steps: int = 80
    subjects: int = 8
    draws: int = 8
    learning_rate: float = 3e-4
    head_rate: float = 3e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    dropout: float = 0.3
    ema: float = 0.98
    tunings: int = 1
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class CellMaps:
    """What the frozen stages give of the immature cells of ``n`` subjects.

    Attributes
    ----------
    recipe, spec, device
        How encoders are tuned on them, what they will be, and where.
    trunk
        The network.
    maps
        float16 ``(cells, views, channels, side, side)``; the first view is the cell as it is.
    keys
        Of the subjects' bags (:func:`~wsi_pipeline.predictions.slide_models.encoder.bag_key`).
    subject
        ``(cells,)`` number of the subject, ascending.
    rows, weight
        ``(cells,)`` row of the subject's bag, and probability that the cell is immature.
    """

    recipe: EncoderRecipe
    spec: EncoderSpec
    device: str
    trunk: CellNetwork
    maps: npt.NDArray[np.float16]
    keys: tuple[str, ...]
    subject: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float64]

    def of(self, bag: CellBag) -> FrozenMaps | None:
        """Return the maps of a subject's cells as they are; None of a bag that is not of these subjects."""
        key = bag_key(bag)
        if key not in self.keys:
            return None
        own = np.flatnonzero(self.subject == self.keys.index(key))
        return FrozenMaps(rows=self.rows[own], weight=self.weight[own], maps=self.maps[own, 0])


def read_cell_maps(
    bags: Sequence[CellBag],
    classifier: CellClassifier,
    n_classes: int,
    recipe: EncoderRecipe,
    *,
    device: str = "cpu",
    report: Callable[[str], None],
) -> CellMaps:
    """Read the immature cells of all subjects again and compute what the frozen stages give of them.

    Memory: 28 kB a cell and view for the compact network; 100 subjects of 64 cells in 4 views take 0.7 GB. Of more
    subjects than fit into :data:`MOST_BYTES` fewer cells each are looked at.

    Raises
    ------
    ConfigError
        The classifier is another than that of the runs, or has no stages to tune.
    DataError
        No subject has an immature cell, or pixels are not to be had any more.
    """
    trunk = classifier.network
    if not isinstance(trunk, CellNetwork):
        raise ConfigError(f"{classifier.name}: its network cannot be tuned to subjects; use --encoder frozen")
    strange = [bag.subject_id for bag in bags if bag.classifier_sha256 != classifier.sha256]
    if strange:
        raise ConfigError(
            f"the cells of {some(strange)} were typed by another classifier than {classifier.name}; name the one of "
            "the runs, or use --encoder frozen"
        )
    spec = EncoderSpec(
        network=trunk.spec.to_dict(),
        classifier=classifier.name,
        classifier_sha256=classifier.sha256,
        mpp=classifier.mpp,
        window_px=classifier.window_px,
        stain=classifier.preparation.stain,
        n_classes=n_classes,
        frozen_stages=recipe.frozen_stages,
        cells=recipe.cells,
        tunings=recipe.tunings,
    )
    shape = _shape_of_maps(trunk, spec, device)
    room = MOST_BYTES // (2 * math.prod(shape) * recipe.views * max(1, len(bags)))
    spec = replace(spec, cells=int(np.clip(room, 1, recipe.cells)))
    chosen = [immature_rows(bag, spec.cells) for bag in bags]
    sizes = [len(rows) for rows, _ in chosen]
    if not sum(sizes):
        raise DataError("no subject has an immature cell to tune an encoder on; use --encoder frozen")
    maps = np.empty((sum(sizes), recipe.views, *shape), np.float16)
    side = round(_ROOM * spec.window_px / 2) * 2
    start = 0
    for number, (bag, (rows, _)) in enumerate(zip(bags, chosen, strict=True), 1):
        if len(rows):
            windows = read_windows(bag, rows, mpp=spec.mpp, side=side)
            seed = (recipe.seed, _number(bag.subject_id))
            maps[start : start + len(rows)] = _views(trunk, spec, windows, recipe, seed=seed, device=device)
            start += len(rows)
        if number % 20 == 0 or number == len(bags):
            report(f"looked at the immature cells of {number} of {len(bags)} subjects")
    return CellMaps(
        recipe=recipe,
        spec=spec,
        device=device,
        trunk=trunk,
        maps=maps,
        keys=tuple(map(bag_key, bags)),
        subject=np.repeat(np.arange(len(bags)), sizes),
        rows=np.concatenate([rows for rows, _ in chosen]),
        weight=np.concatenate([weight for _, weight in chosen]),
    )


def _shape_of_maps(trunk: CellNetwork, spec: EncoderSpec, device: str) -> tuple[int, ...]:
    blank = np.full((1, spec.window_px, spec.window_px, 3), 255, np.uint8)
    return trunk_maps(trunk, spec, CellWindows(images=blank, background=blank[:, 0, 0]), device).shape[1:]


def fit_encoder(
    name: str, maps: CellMaps, bags: Sequence[CellBag], labels: npt.ArrayLike, *, seed: int
) -> EncoderMember | None:
    """Return a member tuned to the labels of some of the subjects; None where a class has no immature cell to show."""
    subjects = [maps.keys.index(bag_key(bag)) for bag in bags]
    there = set(np.unique(maps.subject).tolist())
    shown = {label for i, label in zip(subjects, np.asarray(labels, np.int64).tolist(), strict=True) if i in there}
    if len(shown) < maps.spec.n_classes:
        return None
    return EncoderMember(name=name, encoder=tune_encoder(maps, subjects, labels, seed=seed))


def tune_encoder(maps: CellMaps, subjects: npt.ArrayLike, labels: npt.ArrayLike, *, seed: int) -> TunedEncoder:
    """Tune the last stages to the labels of some of the subjects; nothing is learnt from the others.

    Parameters
    ----------
    subjects, labels
        Numbers of subjects, and the class of each: 0 to ``n_classes - 1``.

    Raises
    ------
    DataError
        A class has no subject with an immature cell.
    """
    cells_of = {int(i): np.flatnonzero(maps.subject == i) for i in np.asarray(subjects, np.int64)}
    of_class: list[list[int]] = [[] for _ in range(maps.spec.n_classes)]
    for subject, label in zip(cells_of, np.asarray(labels, np.int64).tolist(), strict=True):
        if len(cells_of[subject]):
            of_class[label].append(subject)
    if any(not own for own in of_class):
        raise DataError(
            "every class needs a subject with immature cells to tune an encoder on; found "
            f"{', '.join(str(len(own)) for own in of_class)}; use --encoder frozen"
        )
    tunings = [_tune(maps, cells_of, of_class, seed=seed + number) for number in range(maps.recipe.tunings)]
    return TunedEncoder(maps.spec, maps.trunk, tunings, maps.device, known=maps.of)


def _tune(
    maps: CellMaps, cells_of: dict[int, npt.NDArray[np.int64]], of_class: list[list[int]], *, seed: int
) -> Tuning:
    recipe, device = maps.recipe, maps.device
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tuning = Tuning(maps.trunk, recipe.frozen_stages, maps.spec.n_classes, dropout=recipe.dropout).to(device)
        nn.init.normal_(tuning.out.weight, 0.0, 0.01)
        nn.init.zeros_(tuning.out.bias)
        average = Tuning(maps.trunk, recipe.frozen_stages, maps.spec.n_classes).to(device)
        average.load_state_dict(tuning.state_dict())
        optimiser = torch.optim.AdamW(
            [
                {"params": list(tuning.network.parameters()), "peak": recipe.learning_rate},
                {"params": list(tuning.out.parameters()), "peak": recipe.head_rate},
            ],
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
        )
        each = max(1, recipe.subjects // len(of_class))
        tuning.train()
        for step in range(recipe.steps):
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * _schedule(step, recipe.steps)
            chosen = [(k, int(i)) for k, own in enumerate(of_class) for i in rng.choice(own, each)]
            cells = np.concatenate([_draw(rng, cells_of[i], maps.weight, recipe.draws) for _, i in chosen])
            view = rng.integers(0, maps.maps.shape[1], len(cells))
            with training_autocast(device):
                logits = tuning(torch.from_numpy(maps.maps[cells, view]).to(device).float())
            target = torch.tensor([k for k, _ in chosen], device=device).repeat_interleave(recipe.draws)
            loss = nn.functional.cross_entropy(logits.float(), target, label_smoothing=recipe.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(tuning.parameters(), 5.0)
            optimiser.step()
            update_average(average, tuning, min(recipe.ema, (1 + step) / (10 + step)))
    # As a file keeps them, so that what calibrates them now answers later.
    rounded = {name: value.half().float() for name, value in average.state_dict().items()}
    average.load_state_dict(rounded)
    return average.eval()


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


def _draw(
    rng: np.random.Generator, cells: npt.NDArray[np.int64], weight: npt.NDArray[np.float64], n: int
) -> npt.NDArray[np.int64]:
    """Return ``n`` cells of a subject, in proportion to their weights, with repetition."""
    own = weight[cells]
    return rng.choice(cells, n, p=own / own.sum())


def _schedule(step: int, steps: int) -> float:
    """Return the share of the peak rate: a tenth of the steps to warm up, then half a cosine down to 2 %."""
    return min(1.0, 10 * (step + 1) / steps) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))


def _views(
    trunk: CellNetwork,
    spec: EncoderSpec,
    windows: CellWindows,
    recipe: EncoderRecipe,
    *,
    seed: tuple[int, int],
    device: str,
) -> npt.NDArray[np.float16]:
    """Return the maps of all views of a subject's cells, ``(cells, views, channels, side, side)``."""
    edge = (windows.images.shape[1] - spec.window_px) // 2
    middle = slice(edge, edge + spec.window_px)
    plain = CellWindows(images=windows.images[:, middle, middle], background=windows.background)
    views = [trunk_maps(trunk, spec, plain, device)]
    images, light = torch.from_numpy(windows.images), torch.from_numpy(windows.background)
    with torch.inference_mode():
        for view in range(1, recipe.views):
            # Keyed by subject and view: who else is in the cohort changes nothing.
            generator = torch.Generator().manual_seed(int(np.random.default_rng((*seed, view)).integers(2**62)))
            changed = augment(
                images,
                light,
                generator,
                window_px=spec.window_px,
                mpp=spec.mpp,
                spec=(FAR, NEAR)[view % 2],
                stain=spec.stain,
            )
            parts = [trunk.maps(part.to(device), spec.frozen_stages) for part in changed.split(_BATCH)]
            views.append(torch.cat(parts).half().cpu().numpy())
    return np.stack(views, axis=1)
