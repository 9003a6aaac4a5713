"""Files of the ``cellpose`` package: where they are, and what is in them, without ever unpickling an object.

``cellpose`` itself loads a file with ``strict=False``: a file that lacks layers runs with random ones. Here a file
is refused unless it is whole, holds tensors alone, and is a network of Cellpose 4.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wsi_pipeline.errors import MissingWeightsError, ModelError

if TYPE_CHECKING:
    from torch import Tensor

CELLPOSE_NAMES = ("cpsam_v2", "cpsam", "cpdino", "cpdino-vitb")
"""Models of the ``cellpose`` package, found in ``CELLPOSE_LOCAL_MODELS_PATH`` or its own models folder."""

LICENCE_NOTE = "Cellpose's weights were trained on data under CC-BY-NC: not for commercial use."

Backbone = Literal["sam_vitl", "dino_vitl", "dino_vitb"]
"""Encoders of Cellpose 4, as ``cellpose`` names them."""

_DINO_WIDTHS: Mapping[int, Backbone] = {1024: "dino_vitl", 768: "dino_vitb"}
_DINO_KEY, _DINO_WIDTH_KEY = "encoder.cls_token", "encoder.patch_embed.proj.weight"
_NEEDED = "the weights of a Cellpose 4 network are needed (cpsam_v2, cpsam, cpdino, or one fine-tuned from them)"
_PARALLEL_PREFIX = "module."
_DINO_INSTALL = "pip install git+https://github.com/facebookresearch/dinov3"
_HEAD_BYTES = 512


def model_folders() -> list[Path]:
    """Return where Cellpose models are looked for, in that order."""
    folders = [Path.home() / ".cellpose" / "models"]
    if local := os.environ.get("CELLPOSE_LOCAL_MODELS_PATH"):
        folders.insert(0, Path(local))
    return folders


def cellpose_weights(name: str) -> Path:
    """Return the local file of a ``cellpose`` model.

    Raises
    ------
    MissingWeightsError
        It is in none of the folders; the message lists them.
    """
    folders = model_folders()
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    dino = f"; it also needs dinov3, which is not installed: {_DINO_INSTALL}" if _lacks_dinov3(name) else ""
    raise MissingWeightsError(
        f"cellpose model {name} is not in {' or '.join(map(str, folders))}; get it with "
        f"`wsi-pipeline models fetch {name}`, put its file there, or set CELLPOSE_LOCAL_MODELS_PATH "
        f"(nothing is downloaded during a run){dino}"
    )


def find_cellpose_file(name: str) -> Path | None:
    """Return the file that a model's name or path means, or None when it is no Cellpose model.

    A name is one of :data:`CELLPOSE_NAMES` or that of a file in :func:`model_folders`; a path is of any file that is
    not ``.safetensors``.

    Raises
    ------
    MissingWeightsError
        A Cellpose model that is not on this machine, or a path where no file is.
    """
    if name in CELLPOSE_NAMES:
        return cellpose_weights(name)
    path = Path(name)
    if path.suffix == ".safetensors":
        return None
    if path.is_file():
        return path
    if len(path.parts) > 1:
        found = "is a folder" if path.is_dir() else "does not exist"
        raise MissingWeightsError(f"{path} {found}; the file of a Cellpose model or a .safetensors file is needed")
    return next((folder / name for folder in model_folders() if (folder / name).is_file()), None)


def require_dinov3(name: str) -> None:
    """Raise :class:`ModelError`, which says what to install, when a ``cpdino`` model cannot be built here."""
    if _lacks_dinov3(name):
        raise ModelError(
            f"model {name} needs the package dinov3, which is not installed: {_DINO_INSTALL} (mind its licence), or "
            "choose cpsam_v2"
        )


def _lacks_dinov3(name: str) -> bool:
    return name.startswith("cpdino") and find_spec("dinov3") is None


def read_state(path: Path, *, checksums: bool = True, called: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a Cellpose file, on the CPU, mapped into memory where the file allows.

    Parameters
    ----------
    checksums
        Check the whole file against the checksums it carries; without, damage inside a tensor goes unseen.
    called
        What the errors call the file; its path when None.

    Raises
    ------
    ModelError
        The file is no weights file, is damaged or cut short, or holds other objects than tensors.
    """
    import torch

    shown = called or str(path)
    _refuse_other_files(path, shown)
    zipped = zipfile.is_zipfile(path)
    if zipped and checksums:
        _check_archive(path, shown)
    try:
        # Objects are never unpickled, whatever TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD says.
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError:
        raise ModelError(
            f"{shown}: found a damaged file, or pickled objects, which are never loaded; {_NEEDED}, saved as tensors "
            "alone (torch.save of a state_dict)"
        ) from None
    except Exception as error:  # noqa: BLE001  whatever torch raises is about this file
        raise ModelError(f"{shown}: the file is damaged ({_first_line(error)}); {_NEEDED}") from None
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        found = f"entries {_some(state)}" if isinstance(state, dict) and state else f"a {type(state).__name__}"
        raise ModelError(f"{shown}: found {found}, not tensors by name; {_NEEDED}")
    return {str(key).removeprefix(_PARALLEL_PREFIX): value for key, value in state.items()}


def backbone_of(state: Mapping[str, Tensor], shown: str) -> Backbone:
    """Return which network of Cellpose 4 the tensors are of.

    Parameters
    ----------
    shown
        What the errors call the file.

    Raises
    ------
    ModelError
        They are of Cellpose 3 or of something else, or the network needs ``dinov3``, which is not installed.
    """
    if any(key.startswith(("downsample.", "upsample.")) for key in state):
        raise ModelError(
            f"{shown}: found a network of Cellpose 3 or earlier (such as cyto3), which cannot be converted; {_NEEDED}: "
            "fine-tune one on the images that it was trained on with `wsi-pipeline train segmentation --base cellpose`"
        )
    if "W2" not in state or not any(key.startswith("encoder.") for key in state):
        raise ModelError(f"{shown}: found tensors of another network ({_some(state)}); {_NEEDED}")
    if _DINO_KEY not in state:
        return "sam_vitl"
    if find_spec("dinov3") is None:
        raise ModelError(
            f"{shown}: found a cpdino network, which needs the package dinov3: {_DINO_INSTALL} (mind its licence), or "
            "choose cpsam_v2"
        )
    width = int(state[_DINO_WIDTH_KEY].shape[0]) if _DINO_WIDTH_KEY in state else 0
    if width not in _DINO_WIDTHS:
        raise ModelError(
            f"{shown}: found a cpdino encoder of width {width}, needed {' or '.join(map(str, _DINO_WIDTHS))}"
        )
    return _DINO_WIDTHS[width]


def check_shapes(state: Mapping[str, Tensor], needed: Mapping[str, Tensor], shown: str) -> None:
    """Raise :class:`ModelError` unless the tensors have exactly the names and shapes that a network needs.

    The errors call the file ``shown``.
    """
    missing, unknown = sorted(needed.keys() - state.keys()), sorted(state.keys() - needed.keys())
    if missing or unknown:
        parts = [f"{len(missing)} tensors are missing ({_some(missing)})"] if missing else []
        parts += [f"{len(unknown)} are of no use ({_some(unknown)})"] if unknown else []
        raise ModelError(f"{shown}: the tensors are not those of the network: {', '.join(parts)}; {_NEEDED}")
    wrong = [key for key in needed if state[key].shape != needed[key].shape]
    if wrong:
        key = wrong[0]
        raise ModelError(
            f"{shown}: {len(wrong)} of {len(needed)} tensors have another shape: found {key} "
            f"{_shape(state[key])}, needed {_shape(needed[key])}; {_NEEDED}"
        )


def _refuse_other_files(path: Path, shown: str) -> None:
    """Refuse what is commonly saved under the name of weights."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    start = head.lstrip().lower()
    if not head:
        raise ModelError(f"{shown}: found an empty file; {_NEEDED}")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelError(f"{shown}: found an HTML page saved as weights; download the file itself: {_NEEDED}")
    if start.startswith(b"version https://git-lfs"):
        raise ModelError(f"{shown}: found a Git LFS pointer, not the file it stands for (git lfs pull); {_NEEDED}")
    if head.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path):
        raise ModelError(f"{shown}: found a file of {path.stat().st_size:,} bytes that is cut short; {_NEEDED}")


def _check_archive(path: Path, shown: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError) as error:
        raise ModelError(f"{shown}: the file is damaged ({_first_line(error)}); {_NEEDED}") from None
    if damaged is not None:
        raise ModelError(f"{shown}: the file is damaged ({damaged} does not fit its checksum); fetch or copy it again")


def _some(names: Any) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
