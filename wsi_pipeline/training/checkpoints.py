"""Checkpoints that survive a kill and are never pickles: safetensors for tensors, JSON for the rest."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from wsi_pipeline.atomic import atomic_path
from wsi_pipeline.errors import DataError


def plain_recipe(recipe: Any) -> dict[str, Any]:
    """Return a recipe (a dataclass) as JSON holds it, so that a stored one compares equal."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(recipe).items()}


def save_checkpoint(
    path: Path,
    *,
    step: int,
    networks: dict[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    extra: dict[str, Any],
) -> None:
    """Write networks, optimiser state and ``extra`` (JSON values) to one safetensors file, atomically."""
    tensors = {
        f"network.{name}.{key}": value.detach().cpu().contiguous().clone()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    for index, slots in optimiser.state_dict()["state"].items():
        for slot, value in slots.items():
            tensors[f"optimiser.{index}.{slot}"] = torch.as_tensor(value).detach().cpu().contiguous().clone()
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"step": str(step), "extra": json.dumps(extra)})


def load_checkpoint(
    path: Path, *, networks: dict[str, nn.Module], optimiser: torch.optim.Optimizer
) -> tuple[int, dict[str, Any]]:
    """Restore what :func:`save_checkpoint` wrote and return the step and the extra values.

    Raises
    ------
    DataError
        The checkpoint is damaged or belongs to another network.
    """
    from safetensors import SafetensorError, safe_open

    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise DataError(f"{path}: the checkpoint is damaged; remove it to start again ({error})") from None
    try:
        for name, network in networks.items():
            prefix = f"network.{name}."
            network.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
    except RuntimeError as error:
        raise DataError(f"{path}: the checkpoint is of another network; remove it or choose --out ({error})") from None
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, index, slot = key.split(".")
            state.setdefault(int(index), {})[slot] = value
    full = optimiser.state_dict()
    full["state"] = state
    optimiser.load_state_dict(full)
    return int(metadata["step"]), json.loads(metadata["extra"])
