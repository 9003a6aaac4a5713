"""English sentences that remember what they were made of, so that they can be said in another language.

A :class:`Sentence` is a string like any other. What is written to ``summary.json`` beside it (:func:`made_of`) is its
template and the values in it; a report in another language translates the template and fills in the values again.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Value = str | int | float
"""What stands in a sentence: a number, a word, or a sentence of its own."""


class Filler(string.Formatter):
    """Fills in templates; beside Python's own conversions, ``!c`` makes the first letter a capital."""

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        if conversion == "c":
            text = str(value)
            return text[:1].upper() + text[1:]
        return super().convert_field(value, conversion)


class Sentence(str):
    """English text with the template and the values it was made of."""

    __slots__ = ("template", "values")

    template: str
    values: dict[str, Value]

    def __new__(cls, template: str, values: Mapping[str, Value]) -> Sentence:
        made = super().__new__(cls, Filler().vformat(template, (), dict(values)))
        made.template, made.values = template, dict(values)
        return made

    def __reduce__(self) -> tuple[type[Sentence], tuple[str, dict[str, Value]]]:
        return Sentence, (self.template, self.values)

    def to_dict(self) -> dict[str, Any]:
        """Return ``text`` and ``values``; JSON values only, sentences inside as they are here."""
        inside = {k: v.to_dict() if isinstance(v, Sentence) else v for k, v in self.values.items()}
        return {"text": self.template, "values": inside}


def say(template: str, /, **values: Value) -> Sentence:
    """Return a sentence; the template is literal, since translations are found by it.

    Examples
    --------
    >>> say("{n} cells, {percent:.1f} % of them {what}", n=12, percent=33.333, what="blasts")
    '12 cells, 33.3 % of them blasts'
    """
    return Sentence(template, values)


def joined(parts: Iterable[str], between: str = " ") -> Sentence:
    """Return parts as one sentence, of which each stays translatable."""
    values = {f"part{i}": part for i, part in enumerate(parts)}
    return Sentence(between.join("{" + name + "}" for name in values), values)


def said_again(made: Mapping[str, Any]) -> Sentence:
    """Return the sentence that :meth:`Sentence.to_dict` wrote down.

    Examples
    --------
    >>> said_again(say("{n} cells", n=12).to_dict())
    '12 cells'
    """
    values = {name: said_again(v) if isinstance(v, Mapping) else v for name, v in made["values"].items()}
    return Sentence(str(made["text"]), values)


def made_of(document: Any) -> dict[str, dict[str, Any]]:
    """Return what the sentences of a document (mappings, sequences, strings) are made of, by their English text."""
    return {str(found): found.to_dict() for found in _sentences(document)}


def _sentences(document: Any) -> Iterator[Sentence]:
    if isinstance(document, Sentence):
        yield document
    elif isinstance(document, Mapping):
        for value in document.values():
            yield from _sentences(value)
    elif isinstance(document, list | tuple):
        for value in document:
            yield from _sentences(value)
