"""What a task is, and how one is loaded and checked: ``configs/tasks/NAME.yaml``, or a file of a user."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from wsi_pipeline.config import config_folder
from wsi_pipeline.errors import ConfigError, DataError

State = Literal["normal", "reactive", "mds", "aml_other", "apl", "et", "pv", "pmf", "other_abnormal"]
STATES: tuple[State, ...] = get_args(State)
"""What a patient may have, as far as the tasks tell it apart; answers are compared in these."""

_Code = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=400)]
_MAX_BYTES = 100_000
_MINUS = re.compile(r"[-\u2212\u2013\u2010\u2011][\s)\]]*$")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskClass(_Part):
    """One possible answer.

    Parameters
    ----------
    code
        Its name in tables.
    name_en, name_fr
        Its names for people.
    synonyms
        Labels of a manifest that mean it; case, accents and punctuation do not matter, but a minus at the end does.
    parent
        The class that it is a kind of. The parent then stands for all its other kinds.
    states
        What of :data:`STATES` it comprises, without those of its children. Empty in a task whose answers are not
        compared with those of others.
    """

    code: _Code
    name_en: _Text
    name_fr: _Text
    synonyms: tuple[_Text, ...] = ()
    parent: _Code | None = None
    states: tuple[State, ...] = ()


class Task(_Part):
    """A question with exclusive answers.

    Parameters
    ----------
    name, description, citation
        What it is called, asks, and where the classes come from.
    specimens
        Whom it is asked of.
    classes
        Two or more, in the order of tables.
    minimum_cells
        Fewer cells of the denominator give no answer.
    positive, versus
        Of a task of two classes: the one that is asked for, and the other in words.
    """

    name: _Code
    description: _Text
    citation: _Text | None = None
    specimens: Annotated[tuple[Literal["blood_smear", "marrow_smear", "trephine"], ...], Field(min_length=1)]
    classes: Annotated[tuple[TaskClass, ...], Field(min_length=2, max_length=20)]
    minimum_cells: Annotated[int, Field(ge=4, le=100_000)] = 50
    positive: _Code | None = None
    versus: _Text | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Task:
        if "trephine" in self.specimens and len(set(self.specimens)) > 1:
            raise ValueError("specimens: trephines are asked about by tasks of their own, not together with smears")
        codes = list(self.codes)
        if len(set(codes)) < len(codes):
            raise ValueError(f"a class stands twice: {', '.join(codes)}")
        if self.positive is not None and (self.positive not in codes or len(codes) != 2):
            raise ValueError(f"positive {self.positive!r} needs a task of two classes that has it")
        for own in self.classes:
            if own.parent is not None and (own.parent not in codes or self.get(own.parent).parent is not None):
                raise ValueError(f"{own.code}: its parent {own.parent!r} is no class without a parent")
        meant: dict[str, str] = {}
        for own in self.classes:
            for label in (own.code, own.name_en, own.name_fr, *own.synonyms):
                if not _plain(label):
                    raise ValueError(f"the label {label!r} of {own.code} has no letter or digit")
                if meant.setdefault(_plain(label), own.code) != own.code:
                    raise ValueError(f"the label {label!r} means {meant[_plain(label)]} and {own.code}")
        states = [state for own in self.classes for state in own.states]
        if len(set(states)) < len(states):
            raise ValueError("a state belongs to two classes")
        return self

    @property
    def codes(self) -> tuple[str, ...]:
        """Return the codes of the classes, in order."""
        return tuple(own.code for own in self.classes)

    def get(self, code: str) -> TaskClass:
        """Return the class of a code.

        Raises
        ------
        DataError
            The task has no such class.
        """
        for own in self.classes:
            if own.code == code:
                return own
        raise DataError(f"task {self.name} has no class {code!r}; it has {', '.join(self.codes)}")

    def class_of(self, label: str) -> str | None:
        """Return the code of the class that a label means; None where it means none."""
        wanted = _plain(label)
        for own in self.classes:
            if wanted in {_plain(text) for text in (own.code, own.name_en, own.name_fr, *own.synonyms)}:
                return own.code
        return None

    def restricted(self, codes: Collection[str]) -> Task:
        """Return the task with these classes alone; a child that is left out goes back into its parent.

        Raises
        ------
        DataError
            Fewer than two classes are left.
        """
        if set(codes) == set(self.codes):
            return self
        kept = []
        for own in self.classes:
            if own.code not in codes:
                continue
            lost = [c for c in self.classes if c.parent == own.code and c.code not in codes]
            names = [text for c in lost for text in (c.code, c.name_en, c.name_fr, *c.synonyms)]
            more: dict[str, Any] = {
                "synonyms": (*own.synonyms, *dict.fromkeys(names)),
                "states": (*own.states, *(state for c in lost for state in c.states)),
                "parent": own.parent if own.parent in codes else None,
            }
            kept.append(own.model_copy(update=more))
        if len(kept) < 2:
            raise DataError(f"task {self.name} needs two or more of its classes {', '.join(self.codes)}")
        return self.model_copy(update={"classes": tuple(kept)})

    def open_states(self, answered: Collection[str]) -> frozenset[str] | None:
        """Return the states that an answer leaves open; None where the task does not say any.

        The negative answer of a task with a ``positive`` class says only that it is not that one: who is "normal"
        rather than AML may still have something that the task does not know.
        """
        if not any(own.states for own in self.classes):
            return None
        if self.positive is not None:
            claimed = set(self.get(self.positive).states)
            found: set[str] = set()
            if self.positive in answered:
                found |= claimed
            if set(answered) - {self.positive}:
                found |= set(STATES) - claimed
            return frozenset(found)
        return frozenset(state for own in self.classes if own.code in answered for state in own.states)


def _plain(label: str) -> str:
    """Return the letters and digits of a label, of any script, without accents; a minus at its end is kept as a word.

    ``PML::RARA -`` says the opposite of ``PML::RARA``.
    """
    folded = unicodedata.normalize("NFKD", label.casefold())
    bare = "".join(c for c in folded if not unicodedata.combining(c))
    words = re.sub(r"[\W_]+", " ", bare).strip()
    return f"{words} negative" if words and _MINUS.search(bare) else words


def task_names() -> tuple[str, ...]:
    """Return the names of the shipped tasks, sorted."""
    return tuple(sorted(path.stem for path in (config_folder() / "tasks").glob("*.yaml")))


def load_task(name_or_path: str | Path) -> Task:
    """Return a shipped task by name, or a user's by the path of its YAML file.

    Raises
    ------
    ConfigError
        There is no such task, or the file is none.
    """
    text = str(name_or_path)
    if text in task_names():
        path = config_folder() / "tasks" / f"{text}.yaml"
    elif text.endswith((".yaml", ".yml")):
        path = Path(text)
    else:
        raise ConfigError(f"task {text!r} is not shipped and is no .yaml file; shipped are {', '.join(task_names())}")
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigError(f"{path} is no task: it has more than {_MAX_BYTES} bytes")
        document = yaml.safe_load(content.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is no YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is no task: a mapping with name, classes and so on is needed")
    return read_task(document, str(path))


def read_task(document: Mapping[str, Any], where: str) -> Task:
    """Return the task of a mapping.

    Raises
    ------
    ConfigError
        It is none; the sentence begins with ``where``.
    """
    try:
        return Task.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{where} is no task: {place}{': ' if place else ''}{said}") from None
