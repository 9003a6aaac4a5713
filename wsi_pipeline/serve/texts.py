"""The sentences of the page in English and French, and numbers as each language writes them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from typing import Final, Literal, get_args

import yaml

from wsi_pipeline.errors import ConfigError

Language = Literal["en", "fr"]
LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)

_NARROW_SPACE = "\u202f"
_MINUS = "\u2212"


class Texts:
    """All sentences in one language."""

    def __init__(self, language: Language, sentences: Mapping[str, str]) -> None:
        self.language: Language = language
        self._sentences = sentences

    def __call__(self, key: str, **names: object) -> str:
        """Return a sentence with its names filled in; an unknown key is a KeyError."""
        return self._sentences[key].format(**names)

    def __contains__(self, key: str) -> bool:
        return key in self._sentences

    def number(self, value: float, decimals: int) -> str:
        """Return a number with at most ``decimals`` decimals, no zeros behind the last one that counts."""
        text = f"{value:.{decimals}f}"
        if "." in text:
            text = text.rstrip("0").rstrip(".")
        return self._written("0" if text == "-0" else text)

    def signed(self, value: float) -> str:
        """Return a contribution, with its sign and two decimals."""
        return self._written("0.00" if abs(value) < 0.005 else f"{value:+.2f}")

    def unit(self, unit: str) -> str:
        """Return a unit as this language writes it."""
        key = f"unit_{unit}"
        return self(key) if key in self else unit

    def percent(self, share: float) -> str:
        """Return a probability in whole percent; never 0 or 100, which no model knows."""
        text = "<1" if share < 0.01 else ">99" if share > 0.99 else f"{100 * share:.0f}"
        return f"{text}{_NARROW_SPACE}%" if self.language == "fr" else f"{text}%"

    def _written(self, text: str) -> str:
        text = text.replace("-", _MINUS)
        return text.replace(".", ",") if self.language == "fr" else text


@functools.cache
def load_texts(language: Language) -> Texts:
    """Return the sentences of one language.

    Raises
    ------
    ConfigError
        A sentence is missing in a language.
    """
    read = yaml.safe_load(resources.files(__package__).joinpath("texts.yaml").read_text(encoding="utf-8"))
    for key, sentence in read.items():
        if not isinstance(sentence, dict) or sorted(sentence) != sorted(LANGUAGES):
            raise ConfigError(f"texts.yaml: {key} needs exactly the languages {', '.join(LANGUAGES)}")
    return Texts(language, {key: sentence[language] for key, sentence in read.items()})
