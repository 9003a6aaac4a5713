"""Which generated images a training is to add."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.errors import ConfigError

BALANCE = "balance"


@dataclass(frozen=True, kw_only=True)
class SyntheticChoice:
    """Which generated images are added to the training part.

    Attributes
    ----------
    generator
        Its ``.safetensors`` file. Where ``fold-<k>/`` beside it holds a file of the same name, fold ``k`` takes that.
    per_class
        Images a class, or None to fill each class up to the largest.
    """

    generator: Path
    per_class: int | None = None

    @classmethod
    def parse(cls, generator: Path, per_class: str) -> SyntheticChoice:
        """Return the choice of a command line.

        Raises
        ------
        ConfigError
            ``per_class`` is neither a number of images nor ``balance``.
        """
        if per_class == BALANCE:
            return cls(generator=generator)
        if not per_class.isdecimal() or not 1 <= int(per_class) <= 1_000_000:
            raise ConfigError(f"--synthetic-per-class {per_class}: a number of images from 1, or {BALANCE}, is needed")
        return cls(generator=generator, per_class=int(per_class))

    def file(self, fold: int | None) -> Path:
        """Return the weights for a fold, or for the split of the weights that are kept (None)."""
        if fold is None:
            return self.generator
        own = self.generator.parent / f"fold-{fold}" / self.generator.name
        return own if own.is_file() else self.generator
