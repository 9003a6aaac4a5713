"""The one rule that keeps images for the simulator and away from every training run."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath

_ALSO_RESERVED = frozenset(
    {
        # The rule leaves three marrow-like fields of this small set; a section needs a few more nuclei.
        "tissue-nuclei/images/7f34dfccd1bc.png",
        "tissue-nuclei/images/b214800de5ed.png",
    }
)


def is_reserved(relative_path: str) -> bool:
    """Return whether an image belongs to the part of the data that no network may be trained on.

    An image is reserved when the first byte of the SHA-1 of its path below the data root, written with
    forward slashes, is a multiple of 10 (about one image in ten); two named tissue fields are reserved beside
    the rule. The function is pure, so training code and the simulator agree without sharing a list; training
    the cell classifier also keeps the near-duplicates of reserved images out.

    Parameters
    ----------
    relative_path
        For example ``"pbc/eosinophil/EO_1234.png"`` or ``"bccd/fields/BloodImage_00005.jpg"``.

    Raises
    ------
    ValueError
        The path is absolute, climbs out of the root, or is not in normal form; its hash would then differ
        from that of the same image named properly.
    """
    path = PurePosixPath(relative_path)
    parts = path.parts
    if not parts or path.is_absolute() or "\\" in relative_path or {".", ".."} & set(relative_path.split("/")):
        raise ValueError(f"{relative_path!r} is not a path below the data root; write it like pbc/basophil/x.png")
    if path.as_posix() != relative_path:
        raise ValueError(f"{relative_path!r} is not in normal form; write {path.as_posix()!r}")
    if relative_path in _ALSO_RESERVED:
        return True
    return hashlib.sha1(relative_path.encode("utf-8"), usedforsecurity=False).digest()[0] % 10 == 0
