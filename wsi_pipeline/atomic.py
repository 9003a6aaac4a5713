"""Write files so that a reader sees either nothing or the whole: temporary name, flush, rename."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wsi_pipeline.errors import OutputError, WsiPipelineError


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``final`` and rename it into place when the block succeeds.

    On an exception the temporary file is removed and ``final`` is left as it was.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f".{final.name[:150]}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn what the system refuses in the block into :class:`OutputError` on ``out``; errors of our own pass."""
    try:
        yield
    except OSError as error:
        if isinstance(error, WsiPipelineError):
            raise
        raise OutputError(f"{out} cannot be written: {error.strerror or error}") from None


def write_bytes(final: Path, data: bytes) -> None:
    """Write ``data`` to ``final`` atomically."""
    with atomic_path(final) as temporary:
        temporary.write_bytes(data)


def write_text(final: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``final`` atomically."""
    write_bytes(final, text.encode("utf-8"))


def write_json(final: Path, data: Any) -> None:
    """Write ``data`` as indented JSON with sorted keys; NaN is refused, since JSON has none."""
    write_text(final, json.dumps(data, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")
