"""Fine-tune a network of Cellpose 4 on a user's fields, in a loop that resumes after a kill.

Cellpose's own ``train_seg`` keeps no state of its optimiser, so that it cannot resume, normalises each crop alone,
which runs here do not, and knows no pixels without a label. Its optimiser, learning rate, weight decay, batch and
loss are taken over (doi 10.1101/2025.04.28.651001); crops and colours are those of the compact networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsi_pipeline.atomic import atomic_path
from wsi_pipeline.config import Specimen
from wsi_pipeline.errors import ConfigError, ModelError
from wsi_pipeline.segmentation.cellpose_files import Backbone, backbone_of, find_cellpose_file, read_state
from wsi_pipeline.segmentation.cellpose_model import OVERLAP_PX, TILE_PX, build_network
from wsi_pipeline.training.checkpoints import plain_recipe
from wsi_pipeline.training.segmentation.data import Sample
from wsi_pipeline.training.segmentation.fit import Recipe, batch_of, loss_on, run_steps
from wsi_pipeline.weights import file_sha256, load_weights, shipped_weights

BASES = ("compact", "cellpose")
DEFAULT_START = "cpsam_v2"
STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 1500, 1, 1e-5, 0.1
CHECKPOINT_EVERY = 250
LICENCE = "as of the Cellpose weights it started from, which were trained on CC-BY-NC data: not for commercial use"


@dataclass(frozen=True, kw_only=True)
class CellposeStart:
    """A Cellpose 4 network to fine-tune.

    Attributes
    ----------
    specimens
        Those that its card declares; empty without a card.
    """

    name: str
    path: Path
    sha256: str
    backbone: Backbone
    specimens: tuple[Specimen, ...]

    def check_mpp(self, mpp: float, specimens: Sequence[Specimen]) -> None:
        """Raise :class:`ModelError` when the network's card declares another resolution."""
        if self.specimens:
            own = float(load_weights(self.path).card.get("mpp", mpp))
            if own != mpp:
                raise ModelError(
                    f"--start-from {self.name} works at {own:g} um per pixel ({', '.join(self.specimens)}), "
                    f"{', '.join(specimens)} at {mpp:g}; start from a network of the same resolution"
                )

    def tensors_for(self, kinds: tuple[str, ...]) -> None:
        """Return nothing: the file is read when training starts, and knows no kinds."""

    def sentence(self, kinds: tuple[str, ...]) -> str:
        """Return what is kept, for people."""
        return (
            f"starting from {self.name} (Cellpose 4, {self.backbone}): all layers are tuned, to find "
            f"{kinds[-1]} alone; licence: {LICENCE}"
        )


def settle_base(base: str | None, start_from: str | None) -> str:
    """Return which kind of network is meant, ``compact`` or ``cellpose``; None takes that of ``start_from``.

    Raises
    ------
    ConfigError
        It is unknown, or ``start_from`` is of the other kind.
    MissingWeightsError
        ``start_from`` is a Cellpose model, or a path, that is not on this machine.
    """
    if base is not None and base not in BASES:
        raise ConfigError(f"--base {base!r} is unknown; use one of {', '.join(BASES)}")
    if start_from is None:
        return base or "compact"
    own = "compact" if start_from in shipped_weights() or find_cellpose_file(start_from) is None else "cellpose"
    if base is not None and base != own:
        raise ConfigError(
            f"--start-from {start_from} is "
            + ("no Cellpose model" if base == "cellpose" else "a Cellpose model")
            + f", but --base is {base}; leave one of them out"
        )
    return own


def load_cellpose_start(name: str) -> CellposeStart:
    """Check the Cellpose network to start from, by name or path, without building it.

    Raises
    ------
    ModelError
        It is missing, damaged, of Cellpose 3, or does not fit its card.
    """
    path = find_cellpose_file(name)
    if path is None:
        raise ConfigError(
            f"--start-from {name} is no Cellpose model; --base cellpose starts from one, as {DEFAULT_START}"
        )
    backbone = backbone_of(read_state(path), str(path))
    specimens: tuple[Specimen, ...] = ()
    if path.with_suffix(".json").is_file():
        weights = load_weights(path)
        weights.verify()
        specimens = tuple(weights.card["specimens"])
    return CellposeStart(name=path.name, path=path, sha256=file_sha256(path), backbone=backbone, specimens=specimens)


def cellpose_recipe(start: CellposeStart, kind: str, *, mpp: float, steps: int | None, seed: int) -> Recipe:
    """Return how the network is tuned."""
    return Recipe(
        kinds=("background", kind),
        mpp=mpp,
        scale_range=(0.75, 1.35),
        side=TILE_PX[start.backbone],
        batch=BATCH,
        kind_weight=0.0,
        steps=steps or STEPS,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        ema=0.0,
        seed=seed,
    )


def train_cellpose(
    samples: Sequence[Sample],
    out: Path,
    recipe: Recipe,
    start: CellposeStart,
    *,
    device: str,
    report: Callable[[str], None],
    checkpoint_every: int,
    data_digest: str,
) -> dict[str, Tensor]:
    """Tune on the ``train`` fields of ``samples`` and return the tensors by name, float32.

    A run that was killed continues from its checkpoint; on a CPU it ends with the same bits. Weights are kept in
    float32, and multiplied in bfloat16.

    Parameters
    ----------
    out
        Folder of the checkpoint: three times the size of the weights, 3.6 GB for ``cpsam``.

    Raises
    ------
    ModelError
        The network cannot be built.
    DataError
        The checkpoint is damaged, or of another recipe, network or data.
    """
    training = [s for s in samples if s.split == "train"]
    network: Any
    network, _ = build_network(start.path, device=device, dtype=torch.float32)
    tuned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(tuned, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    network.train()

    def loss_of(step: int) -> Tensor:
        # Layers are left out at random; a resumed run leaves out the same.
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        return loss_on(lambda image: network(image)[0], batch_of(training, recipe, step), recipe, device)

    run_steps(
        loss_of,
        {"live": network},
        optimiser,
        recipe,
        checkpoint=out / "checkpoint.safetensors",
        checkpoint_every=checkpoint_every,
        data_digest=data_digest,
        report=report,
    )
    return {key: value.detach().cpu() for key, value in network.state_dict().items()}


def save_cellpose(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors as ``cellpose`` does, atomically; equal tensors give equal bytes."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        # To an open file: torch names the archive's folder after a path, and this one is a random name.
        torch.save(tensors, file)


def cellpose_details(recipe: Recipe, start: CellposeStart) -> dict[str, Any]:
    """Return the entries of a card that say what the file is, and the recipe."""
    return {
        "base": "cellpose",
        "backbone": start.backbone,
        "kinds": list(recipe.kinds),
        "tile_px": TILE_PX[start.backbone],
        "overlap_px": OVERLAP_PX,
        "simulated": False,
        "recipe": plain_recipe(recipe),
    }
