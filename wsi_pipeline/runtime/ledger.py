"""The ledger: which parts of a slide are done, so that a rerun skips them and a killed run resumes.

A part is a file that appears by an atomic rename, so it is either absent or whole; its folder's name is a hash of
everything it depends on, so parts of another configuration are never taken for it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_pipeline.atomic import write_json
from wsi_pipeline.errors import OutputError


def key_of(**dependencies: Any) -> str:
    """Return the hash of what a stage depends on (JSON values)."""
    return hashlib.sha256(json.dumps(dependencies, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Parts of one slide under one key.

    Attributes
    ----------
    folder
        ``OUT/work/<slide_id>/<key>``.
    """

    folder: Path

    def part(self, stage: str, name: str, suffix: str = ".parquet") -> Path:
        """Return where a part of a stage is, or will be."""
        return self.folder / stage / f"{name}{suffix}"

    def is_done(self, stage: str, name: str, suffix: str = ".parquet") -> bool:
        return self.part(stage, name, suffix).is_file()

    def read(self, stage: str, name: str) -> dict[str, Any] | None:
        """Return a JSON part, or None when it is not done."""
        path = self.part(stage, name, ".json")
        if not path.is_file():
            return None
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise OutputError(f"{path}: the ledger entry is damaged ({error}); run again with --restart") from None

    def write(self, stage: str, name: str, record: Mapping[str, Any]) -> None:
        """Write a JSON part."""
        write_json(self.part(stage, name, ".json"), dict(record))

    def clear(self) -> None:
        """Remove all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)
