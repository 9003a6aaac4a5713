"""Train a class-conditional generator of cell images: seeded, resumable after a kill, on CPU or GPU.

The non-saturating logistic loss with a penalty on the discriminator's gradient at real images (R1, Mescheder et al.,
ICML 2018, arXiv 1801.04406; taken every few steps, Karras et al., CVPR 2020, arXiv 1912.04958), an average of the
generator's weights, and differentiable augmentation
(:mod:`~wsi_pipeline.training.synthetic.differentiable_augment`). Every step
draws from a generator keyed by (seed, step), so that a resumed training sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from wsi_pipeline.cells.backbones import resized
from wsi_pipeline.cells.network import balance
from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.training.averaging import update_average
from wsi_pipeline.training.checkpoints import load_checkpoint, plain_recipe, save_checkpoint
from wsi_pipeline.training.precision import training_autocast
from wsi_pipeline.training.synthetic.differentiable_augment import differentiable_augment, turn
from wsi_pipeline.training.synthetic.network import SIDES, Discriminator, Generator, GeneratorSpec

LIGHT = 230
"""Grey level of the background in generated images; what is up to a tenth brighter can still be told."""
WINDOW_UM = 24.0
"""Side of what is generated, um: what a classifier sees."""


@dataclass(frozen=True, kw_only=True)
class GeneratorRecipe:
    """How a generator is trained.

    Parameters
    ----------
    side_px
        Side of the images: 64 on a CPU, 128 on a GPU.
    width
        Channels at 64 pixels.
    steps, batch
        Updates of either network, and images in each.
    generator_rate, discriminator_rate
        Learning rates.
    penalty, penalty_each
        Weight of the gradient penalty, and steps between two of it.
    ema
        Share of the average that a step keeps.
    each
        Steps between two checkpoints, and two entries of the history.
    checked
        Images of each class made for the comparison with the training images, at least eight.
    """

    side_px: int = 64
    width: int = 16
    noise_dim: int = 96
    steps: int = 4000
    batch: int = 32
    generator_rate: float = 5e-4
    discriminator_rate: float = 5e-4
    penalty: float = 0.3
    penalty_each: int = 8
    ema: float = 0.998
    each: int = 100
    checked: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.side_px not in SIDES:
            raise ConfigError(f"--side {self.side_px}: one of {', '.join(map(str, SIDES))} pixels is needed")
        if self.steps < 1 or self.batch < 2 or self.each < 1:
            raise ConfigError(f"--steps {self.steps}, batch {self.batch}: at least one step of two images is needed")

    @property
    def mpp(self) -> float:
        """Microns per pixel of the images."""
        return WINDOW_UM / self.side_px

    @property
    def fixed(self) -> dict[str, Any]:
        """What a training cannot be gone on with another value of; with more steps it can, since no rate decays."""
        return {k: v for k, v in plain_recipe(self).items() if k not in ("steps", "checked")}

    def network(self, n_classes: int) -> GeneratorSpec:
        """Return the description of the generator for ``n_classes``."""
        return GeneratorSpec(n_classes=n_classes, side_px=self.side_px, noise_dim=self.noise_dim, width=self.width)


def recipe_for(device: str, *, side_px: int | None = None, steps: int | None = None) -> GeneratorRecipe:
    """Return the recipe for a device: 64 pixels on a CPU; on a GPU 128 pixels, wider, larger batches, more steps.

    Parameters
    ----------
    side_px, steps
        What was asked for instead of the recipe's.

    Raises
    ------
    ConfigError
        Images of this side cannot be made.
    """
    recipe = GeneratorRecipe()
    if device.startswith("cuda"):
        recipe = replace(recipe, side_px=128, width=48, batch=64, steps=20_000, each=500)
    return replace(recipe, side_px=recipe.side_px if side_px is None else side_px, steps=steps or recipe.steps)


def to_signed(
    windows: npt.NDArray[np.uint8], background: npt.NDArray[np.uint8], side_px: int
) -> npt.NDArray[np.float32]:
    """Return windows as the networks take them, float32 ``(n, 3, side_px, side_px)`` in -1 to 1.

    Parameters
    ----------
    windows
        uint8 ``(n, side, side, 3)`` of 24 um.
    background
        uint8 ``(n, 3)``; it becomes ``LIGHT`` in every channel.
    """
    rows = []
    for start in range(0, len(windows), 256):
        part = slice(start, start + 256)
        rgb = resized(balance(torch.from_numpy(windows[part]), torch.from_numpy(background[part])), side_px)
        rows.append(((rgb * (LIGHT / 255)).clamp(0, 1) * 2 - 1).numpy())
    return np.concatenate(rows)


def to_grey_levels(signed: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Return images of -1 to 1, ``(n, 3, side, side)``, as uint8 ``(n, side, side, 3)``."""
    levels = ((signed.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def make_images(
    generator: Generator, target: npt.NDArray[np.int64], *, seed: int, device: str = "cpu", batch: int = 64
) -> npt.NDArray[np.uint8]:
    """Return one generated image per entry of ``target`` (index of the class), uint8 ``(n, side, side, 3)``.

    All batches have one shape, so that an image depends on the seed, its place and its class alone.
    """
    rows = []
    noise = torch.randn(len(target), generator.spec.noise_dim, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        for start in range(0, len(target), batch):
            z, labels = noise[start : start + batch], torch.from_numpy(target[start : start + batch])
            short = batch - len(z)
            made = generator(F.pad(z, (0, 0, 0, short)).to(device), F.pad(labels, (0, short)).to(device))
            rows.append(to_grey_levels(made[: batch - short]))
    side = generator.spec.side_px
    return np.concatenate(rows) if rows else np.zeros((0, side, side, 3), dtype=np.uint8)


@dataclass(frozen=True, kw_only=True)
class FittedGenerator:
    """The averaged generator with its history: one record every ``each`` steps."""

    network: Generator
    history: list[dict[str, float]]


def fit_generator(
    images: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    n_classes: int,
    out: Path,
    recipe: GeneratorRecipe,
    *,
    identity: str,
    device: str = "cpu",
    resume: bool = True,
    report: Callable[[str], None],
) -> FittedGenerator:
    """Train on images and their classes.

    Parameters
    ----------
    images, labels
        Training images as of :func:`to_signed`, and the index of each one's class. Classes are drawn in proportion to
        the square root of their sizes.
    out
        Folder of the checkpoint. A training killed at any moment continues after its last checkpoint.
    identity
        Names the images; a checkpoint of others is refused.

    Raises
    ------
    DataError
        A class has no images, or the checkpoint belongs to another recipe or other images.
    """
    counts = np.bincount(labels, minlength=n_classes)
    if not counts.all():
        raise DataError(f"{int((counts == 0).sum())} of {n_classes} classes have no training images")
    p = 1 / np.sqrt(counts)[labels]
    p /= p.sum()
    torch.manual_seed(recipe.seed)
    spec = recipe.network(n_classes)
    generator = Generator(spec).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    discriminator = Discriminator(spec).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(generator).eval()
    optimiser = torch.optim.Adam(
        [
            {"params": list(generator.parameters()), "lr": recipe.generator_rate},
            {"params": list(discriminator.parameters()), "lr": recipe.discriminator_rate},
        ],
        betas=(0.0, 0.99),
    )
    about: dict[str, Any] = {"recipe": recipe.fixed, "n_classes": n_classes, "images": identity}
    checkpoint = out / "checkpoint.safetensors"
    networks: dict[str, torch.nn.Module] = {
        "generator": generator, "discriminator": discriminator, "average": average
    }  # fmt: skip
    history: list[dict[str, float]] = []
    first = 0
    if checkpoint.is_file() and resume:
        first, extra = load_checkpoint(checkpoint, networks=networks, optimiser=optimiser)
        if extra["identity"] != about:
            raise DataError(
                f"{checkpoint} was written by another recipe or data; choose another --out, or --restart to begin anew"
            )
        if first > recipe.steps:
            raise DataError(f"{checkpoint} is of step {first}, beyond --steps {recipe.steps}; --restart begins anew")
        history = extra["history"]
        report(f"resumed after step {first} of {recipe.steps}")
    sums = np.zeros(4)
    since, started = 0, time.monotonic()
    for step in range(first, recipe.steps):
        rng = np.random.default_rng((recipe.seed, step))
        draw = torch.Generator().manual_seed(int(rng.integers(2**62)))
        chosen = rng.choice(len(images), recipe.batch, p=p)
        real = turn(torch.from_numpy(images[chosen]).to(device), draw)
        target = torch.from_numpy(labels[chosen]).to(device)
        with training_autocast(device):
            made = generator(torch.randn(recipe.batch, spec.noise_dim, generator=draw).to(device), target)
            on_real = discriminator(differentiable_augment(real, draw), target).float()
            on_made = discriminator(differentiable_augment(made.detach().float(), draw), target).float()
        loss = F.softplus(-on_real).mean() + F.softplus(on_made).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if step % recipe.penalty_each == 0:
            _penalise(discriminator, differentiable_augment(real, draw), target, recipe.penalty * recipe.penalty_each)
        # The optimiser holds both networks; parameters without gradients stay as they are.
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        discriminator.requires_grad_(False)
        with training_autocast(device):
            judged = discriminator(differentiable_augment(made.float(), draw), target).float()
        for_generator = F.softplus(-judged).mean()
        for_generator.backward()
        discriminator.requires_grad_(True)
        optimiser.step()
        update_average(average, generator, min(recipe.ema, (1 + step) / (10 + step)))
        sums += [loss.item(), for_generator.item(), on_real.mean().item(), on_made.mean().item()]
        since += 1
        if (step + 1) % recipe.each == 0 or step + 1 == recipe.steps:
            names = ("discriminator_loss", "generator_loss", "score_real", "score_made")
            entry = {"step": float(step + 1), **dict(zip(names, (sums / since).tolist(), strict=True))}
            if not np.isfinite(sums).all():
                raise DataError(
                    f"the training lost its way at step {step + 1} (losses that are not finite); start again with "
                    "another --seed and --restart"
                )
            history.append(entry)
            save_checkpoint(
                checkpoint,
                step=step + 1,
                networks=networks,
                optimiser=optimiser,
                extra={"identity": about, "history": history},
            )
            seconds = time.monotonic() - started
            left = seconds / (step + 1 - first) * (recipe.steps - step - 1) / 60
            report(
                f"step {step + 1}/{recipe.steps}  discriminator {entry['discriminator_loss']:.3f}  score real "
                f"{entry['score_real']:.2f} made {entry['score_made']:.2f}  {left:.0f} min left"
            )
            sums[:] = 0
            since = 0
    return FittedGenerator(network=average, history=history)


def _penalise(discriminator: Discriminator, real: torch.Tensor, target: torch.Tensor, weight: float) -> None:
    """Add the gradient of half the mean squared gradient at real images, in full precision."""
    at = real.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(discriminator(at, target).sum(), at, create_graph=True)
    (slope.square().sum(dim=(1, 2, 3)).mean() * (weight / 2)).backward()
