"""What a user asks for who trains a network on fields of their own, and which of it fits together."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.config import SPECIMENS, Specimen, load_config
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.segmentation.models import CELLPOSE_NAMES
from wsi_pipeline.weights import shipped_weights

SMEARS: tuple[Specimen, ...] = ("blood_smear", "marrow_smear")


@dataclass(frozen=True, kw_only=True)
class OwnKind:
    """A kind of cell that a network can be trained for.

    Attributes
    ----------
    noun
        What its cells are called, in the plural.
    diameter_um
        Where the median diameter of its cells must lie. Wide: the bounds stop a wrong scale, not odd cells.
    specimens
        Specimens that it is looked for on.
    default_specimens
        Those that are meant when none is named.
    """

    noun: str
    diameter_um: tuple[float, float]
    specimens: tuple[Specimen, ...]
    default_specimens: tuple[Specimen, ...]


OWN_KINDS: Mapping[str, OwnKind] = {
    "white": OwnKind(noun="white cells", diameter_um=(5, 30), specimens=SMEARS, default_specimens=SMEARS),
    "red": OwnKind(noun="red cells", diameter_um=(4, 12), specimens=SMEARS, default_specimens=SMEARS),
    "platelet": OwnKind(noun="platelets", diameter_um=(1, 8), specimens=SMEARS, default_specimens=SMEARS),
    "nucleus": OwnKind(noun="nuclei", diameter_um=(3, 20), specimens=("trephine",), default_specimens=("trephine",)),
    "megakaryocyte": OwnKind(
        noun="megakaryocytes",
        diameter_um=(10, 100),
        specimens=("trephine", "marrow_smear"),
        default_specimens=("trephine",),
    ),
}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class OwnTraining:
    """What a user asks for.

    Attributes
    ----------
    name
        Of the new weights.
    images, masks
        Folders of fields and of their masks.
    mpp
        A number, the path of a CSV file with columns image,mpp, or None to take what the images state.
    kind
        One of :data:`OWN_KINDS`; None takes nuclei for sections and white cells for smears.
    specimens
        Specimens the network may be used on; empty takes those of the kind.
    start_from
        Network to fine-tune: a compact one by name or by its ``.safetensors`` file, or a Cellpose 4 one by name or
        path; None starts at random, or with ``base`` ``cellpose`` from ``cpsam_v2``.
    base
        ``compact`` or ``cellpose``; None takes what ``start_from`` is.
    complete
        Every cell of the kind has a label.
    skip_unpaired, allow_any_size
        Go on where files have no partner, where sizes are implausible.
    steps
        Training steps; None takes the recipe's.
    side, batch
        Of the training crops of a compact network: side in pixels, a multiple of 16, and number a step.
    """

    name: str
    images: Path
    masks: Path
    mpp: str | None = None
    kind: str | None = None
    specimens: tuple[str, ...] = ()
    start_from: str | None = None
    base: str | None = None
    complete: bool = True
    skip_unpaired: bool = False
    allow_any_size: bool = False
    steps: int | None = None
    seed: int = 0
    side: int = 224
    batch: int = 8


def working_mpp(specimens: tuple[Specimen, ...]) -> float:
    """Return the resolution that runs on these specimens work at, um per pixel.

    Raises
    ------
    ConfigError
        They work at different ones.
    """
    values = {specimen: load_config(specimen, {}).segmentation.mpp for specimen in specimens}
    if len(set(values.values())) != 1:
        said = ", ".join(f"{specimen} at {mpp:g}" for specimen, mpp in values.items())
        raise ConfigError(
            f"--specimen: one network works at one resolution, but runs work on {said} um per pixel; train two"
        )
    return next(iter(values.values()))


def check_name(name: str) -> None:
    """Raise :class:`ConfigError` unless new weights may be called so."""
    if name in shipped_weights() or name in CELLPOSE_NAMES:
        raise ConfigError(
            f"--model {name} is the name of a model that exists; with --images give a new name, for example "
            f"--model my-cells, and --start-from {name} to fine-tune a shipped compact network"
        )
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--model {name!r}: a name of letters, digits, '-', '_' and '.' is needed, not a path")


def settle_kind(
    kind: str | None, specimens: tuple[str, ...], started: tuple[Specimen, ...], report: Callable[[str], None]
) -> tuple[str, tuple[Specimen, ...]]:
    """Return the kind of cell and the specimens that are meant.

    Parameters
    ----------
    kind, specimens
        As asked; None and empty where nothing was said.
    started
        Specimens of the network that training starts from, empty without one.
    report
        Told what is taken when no kind was said.

    Raises
    ------
    ConfigError
        One of them is unknown, or they do not fit each other.
    """
    unknown = [s for s in specimens if s not in SPECIMENS]
    if unknown:
        raise ConfigError(f"--specimen {', '.join(unknown)} is unknown; use {', '.join(SPECIMENS)}")
    asked: tuple[Specimen, ...] = tuple(s for s in SPECIMENS if s in specimens)
    if kind is None:
        kind = "nucleus" if (asked or started) == ("trephine",) else "white"
        report(f"no --kind given: the masks are taken to hold {OWN_KINDS[kind].noun}")
    if kind not in OWN_KINDS:
        raise ConfigError(f"--kind {kind!r} is unknown; use one of {', '.join(OWN_KINDS)}")
    possible = OWN_KINDS[kind].specimens
    if not set(asked) <= set(possible):
        wrong = ", ".join(s for s in asked if s not in possible)
        raise ConfigError(
            f"--kind {kind} is not looked for on {wrong}; it is on {', '.join(possible)} (nucleus and megakaryocyte "
            "are the kinds of sections, white, red and platelet those of smears)"
        )
    return kind, asked or OWN_KINDS[kind].default_specimens
