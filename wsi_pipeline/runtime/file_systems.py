"""Which file system a folder is on, and whether several machines may see it."""

from __future__ import annotations

from pathlib import Path

_LOCAL = frozenset(
    {
        "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs", "tmpfs", "ramfs",
        "overlay", "apfs", "hfs", "ntfs", "ntfs3", "vfat", "exfat",
    }
)  # fmt: skip
"""File systems of one machine, on which SQLite's locks and shared memory hold."""


def file_system_of(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Return the type of the file system that ``folder`` is on, as the kernel names it; empty where it does not say.

    Parameters
    ----------
    mounts
        A table of mounts in the form of ``/proc/mounts``: device, place, type.
    """
    try:
        rows = [line.split() for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()]
    except OSError:
        return ""
    real = folder.absolute().resolve()
    found, length = "", -1
    for row in rows:
        if len(row) < 3:
            continue
        # The kernel writes spaces and the like in octal.
        place = Path(row[1].encode("utf-8", "surrogateescape").decode("unicode_escape"))
        # Of two mounts on one place the later one hides the earlier.
        if real.is_relative_to(place) and len(place.parts) >= length:
            found, length = row[2], len(place.parts)
    return found


def is_local(folder: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Return whether only this machine sees the folder's file system; one that is not known to be so is not."""
    return file_system_of(folder, mounts) in _LOCAL
