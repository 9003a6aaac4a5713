"""What a report says, in the language asked for: one catalogue for pages, codes and sentences alike.

English is written where it is needed: in the templates (``{% trans %}``), in the tables of codes of :mod:`.text`, and
in :func:`wsi_pipeline.sentences.say`. ``french.yaml`` holds the French for each. What it does not know, such as names,
messages of other libraries and the words of a user's own models, stays as it is.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final, get_args

import yaml

from wsi_pipeline.config import Language
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.exports.report import text
from wsi_pipeline.exports.report.summary import Answer, CellularityFact, Scalar, Seams
from wsi_pipeline.predictions.tasks import load_task, task_names
from wsi_pipeline.sentences import Filler, Sentence
from wsi_pipeline.taxonomies import load_taxonomy, taxonomy_names
from wsi_pipeline.taxonomies.attributes import load_attributes

LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)
_NARROW_SPACE = "\u202f"
_FIRST_TAXONOMY = "pbc-blast"
_QUALITY = "|".join(text.PHENOTYPES)
_PHENOTYPE = re.compile(rf"(?P<words>(?:{_QUALITY})(?: (?:{_QUALITY}))*)(?P<number> \(\d+\))?")
_WRITTEN_NUMBER = re.compile(r"[<\d\s.–∞-]*\d[\d\s.–∞-]*")


class Words:
    """All words of a report in one language; ``made`` tells what the sentences of a summary are made of."""

    def __init__(self, language: Language = "en", made: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.language: Language = language
        self._made = made or {}
        self._known = _catalogue() if language == "fr" else {}
        self._filler = Filler() if language == "en" else _FrenchFiller()

    def about(self, made: Mapping[str, Mapping[str, Any]]) -> Words:
        """Return the words of the same language for the sentences of another document."""
        return Words(self.language, made)

    def tr(self, english: str) -> str:
        """Return a fixed text; one that the catalogue does not have stays English."""
        return self._known.get(english, english)

    def ngettext(self, one: str, many: str, n: int) -> str:
        """Return the singular or the plural of a fixed text; French takes the singular for 0, too."""
        return self.tr(one if (n <= 1 if self.language == "fr" else n == 1) else many)

    def sentence(self, english: str | None) -> str:
        """Return a sentence of a summary, or one made by :func:`~wsi_pipeline.sentences.say`."""
        if not english or self.language == "en":
            return english or ""
        made = english.to_dict() if isinstance(english, Sentence) else self._made.get(english)
        if made is None:
            return self.tr(english)
        try:
            return self._filled(made)
        except (KeyError, ValueError, IndexError, AttributeError, TypeError):  # a summary that was changed by hand
            return str(english)

    def _filled(self, made: Mapping[str, Any]) -> str:
        values = {}
        for name, value in dict(made.get("values") or {}).items():
            if isinstance(value, Mapping):
                values[name] = self._filled(value)
            else:
                values[name] = self._value(value)
        return self._filler.vformat(self.tr(str(made["text"])), (), values)

    def _value(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if _WRITTEN_NUMBER.fullmatch(value):
            return self._written(value)
        return self.reason(value) if value in text.REASONS else self.sentence(value)

    # Codes.

    def title(self, code: str) -> str:
        return self.tr(text.title(code))

    def class_name(self, code: str) -> str:
        """Return the name of a class of cells by its code, of any taxonomy; several joined by `` + `` each."""
        parts = [self._class(part) for part in code.split(" + ")]
        return " + ".join(parts)

    def _class(self, code: str) -> str:
        if self.language == "en":
            return text.title(code)
        return _capital(_class_names().get(code) or self.title(code))

    def specimen(self, code: str) -> str:
        return self.tr(text.SPECIMENS.get(code, code))

    def status(self, code: str) -> str:
        return self.tr(code)

    def kind(self, code: str) -> str:
        return self.tr(text.KINDS.get(code, code))

    def index(self, code: str) -> str:
        return self.tr(text.INDICES.get(code, text.title(code)))

    def phenotype(self, name: str) -> str:
        """Return the name of a phenotype that ``train phenotypes`` put together; another name stays as it is."""
        made = _PHENOTYPE.fullmatch(name)
        if self.language == "en" or made is None:
            return name
        parts = re.findall(_QUALITY, made["words"])
        return " ".join(self.tr(part) for part in parts) + (made["number"] or "")

    def group(self, code: str) -> str:
        """Return the name of a group of classes, or of the classes that are joined by `` + ``."""
        if " + " in code:
            return self.class_name(code)
        return self.tr(text.GROUPS.get(code, text.title(code)))

    def measure(self, code: str) -> str:
        return self.tr(text.MEASURES.get(code, text.title(code)))

    def attribute(self, code: str) -> str:
        """Return the name of an attribute; that of an unknown one is its code in words."""
        known = load_attributes()
        if code not in known.codes:
            return self.title(code)
        return _capital(known.get(code).name_fr if self.language == "fr" else known.get(code).name_en)

    def reason(self, code: str | None) -> str:
        """Return a reason code in words."""
        task = text.contradicted(code)
        if task is None:
            return self.tr(text.reason(code))
        return self.tr(text.CONTRADICTS) + self.tr(text.MODEL_TASKS.get(task) or text.TASKS.get(task, text.title(task)))

    def task(self, answer: Answer) -> str:
        """Return what was asked."""
        return self.tr(text.task_words(answer))

    def answer_class(self, answer: Answer, code: str | None = None) -> str:
        """Return the class of an answer, or another of its task; a set (``a|b``) is read as alternatives."""
        return self.tr(" or ").join(self.tr(part) for part in text.class_parts(answer, code))

    def label(self, code: str) -> tuple[str, str]:
        """Return a title for a key and the unit that its ending names, or an empty unit."""
        name, unit = text.label(code)
        return self.tr(name), unit

    def seams(self, found: Seams) -> str:
        return self.sentence(text.seams(found))

    def cellularity(self, found: CellularityFact) -> str:
        return self.sentence(text.cellularity(found))

    # Numbers.

    def number(self, value: Scalar, digits: int = 3) -> str:
        """Return a value with about ``digits`` significant digits; a text of ours is said in the language."""
        found = text.number(value, digits)
        if isinstance(value, bool):
            return self.tr(found)
        return self.sentence(found) if isinstance(value, str) else self._written(found)

    def percent(self, value: float | None, digits: int = 1) -> str:
        return self._written(text.percent(value, digits))

    def interval(self, lower: float | None, upper: float | None, digits: int = 1) -> str:
        return self._written(text.interval(lower, upper, digits))

    def decimals(self, value: float, digits: int = 2) -> str:
        """Return a number with fixed decimals."""
        return self._written(f"{value:.{digits}f}")

    def seconds(self, value: float) -> str:
        return self._written(text.seconds(value))

    def _written(self, number: str) -> str:
        return number.replace(".", ",") if self.language == "fr" else number


class _FrenchFiller(Filler):
    """Writes numbers as French does: a comma, and narrow spaces between thousands."""

    def format_field(self, value: Any, format_spec: str) -> str:
        made = super().format_field(value, format_spec)
        if isinstance(value, str) or not made:
            return str(made)
        return str(made).replace(",", _NARROW_SPACE).replace(".", ",")


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


@functools.cache
def _class_names() -> dict[str, str]:
    """Return the French names of all classes of cells by code; the first taxonomy that has one says it."""
    names = sorted(taxonomy_names(), key=lambda name: (name != _FIRST_TAXONOMY, name))
    found: dict[str, str] = {}
    for name in names:
        for own in load_taxonomy(name).classes:
            found.setdefault(own.code, own.name_fr)
    return found


@functools.cache
def _catalogue() -> dict[str, str]:
    """Return the French of every English text; names of diseases come from the tasks."""
    known: dict[str, str] = {}
    for name in task_names():
        for own in load_task(name).classes:
            known[own.name_en] = own.name_fr
    return {**known, **read_french()}


def read_french() -> dict[str, str]:
    """Return ``french.yaml``: English text to French.

    Raises
    ------
    ConfigError
        The installation is damaged.
    """
    try:
        content = resources.files("wsi_pipeline.exports.report").joinpath("french.yaml").read_text(encoding="utf-8")
        parts = yaml.safe_load(content)
        return {str(en): str(fr) for part in parts.values() for en, fr in part.items()}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:
        raise ConfigError(f"french.yaml of this installation is damaged: {error}") from None
