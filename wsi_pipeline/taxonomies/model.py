"""What a taxonomy is, and how one is loaded and checked."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from wsi_pipeline.config import Specimen
from wsi_pipeline.errors import ConfigError, DataError

Lineage = Literal["granulocytic", "monocytic", "lymphoid", "erythroid", "megakaryocytic", "undetermined", "none"]
Maturity = Literal["blast", "precursor", "mature", "none"]
Code = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_M = TypeVar("_M", bound=BaseModel)
_Channel = Annotated[int, Field(ge=0, le=255)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CellClass(_Model):
    """One class of cell.

    Parameters
    ----------
    code
        The name used in ``class_name`` and in the tables.
    name_en, name_fr
        Names for people.
    color
        Red, green and blue, 0 to 255.
    lineage, maturity
        What the class says about the cell; ``undetermined`` where morphology alone does not say.
    meaning
        What the label stands for, in the terms of :mod:`wsi_pipeline.taxonomies.maps`; a class without one is in
        no map. Sets may use one code with two meanings (promyelocytes with and without those of APL).
    countable
        Per specimen, whether the class belongs to the denominator of the differential. A specimen that is not
        named has no differential in this taxonomy.
    classified
        Whether a classifier of this taxonomy may answer with the class; otherwise the class comes from the
        segmentation (red cells) or marks cells that were not classified.
    aliases
        Folder names and codes of public data sets that mean the same class.
    """

    code: Code
    name_en: Text
    name_fr: Text
    color: tuple[_Channel, _Channel, _Channel]
    lineage: Lineage
    maturity: Maturity
    meaning: Code | None = None
    countable: dict[Specimen, bool] = {}
    classified: bool = True
    aliases: tuple[str, ...] = ()


class Taxonomy(_Model):
    """A label set.

    Parameters
    ----------
    name, description
        What the set is called and what it is for.
    classes
        All classes, in the order of tables and legends.
    denominators
        Per specimen, the denominator of the differential in words.
    roll_ups
        Named groups of classes.
    refused_roll_ups
        Groups that readers will ask for and that this set cannot give, each with the reason.

    Examples
    --------
    >>> taxonomy = load_taxonomy("pbc-blast")
    >>> taxonomy.get("monocyte").name_fr
    'monocyte'
    >>> taxonomy.roll_up("neutrophils")
    ('band_neutrophil', 'segmented_neutrophil')
    >>> "erythroblast" in taxonomy.countable("blood_smear"), "erythroblast" in taxonomy.countable("marrow_smear")
    (False, True)
    """

    name: str
    description: Text
    classes: Annotated[tuple[CellClass, ...], Field(min_length=1)]
    denominators: dict[Specimen, Text] = {}
    roll_ups: dict[Code, Annotated[tuple[Code, ...], Field(min_length=1)]] = {}
    refused_roll_ups: dict[Code, Text] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Taxonomy:
        codes = [c.code for c in self.classes]
        labels = [label.casefold() for c in self.classes for label in (c.code, *c.aliases)]
        meanings = [c.meaning for c in self.classes if c.meaning is not None]
        for what, values in (("code", codes), ("code or alias", labels), ("meaning", meanings)):
            twice = sorted({v for v in values if values.count(v) > 1})
            if twice:
                raise ValueError(f"{what} given twice: {', '.join(twice)}")
        for group, members in self.roll_ups.items():
            unknown = sorted(set(members) - set(codes))
            if unknown or len(set(members)) != len(members):
                raise ValueError(f"roll-up {group}: unknown or repeated classes {', '.join(unknown or members)}")
        both = sorted(set(self.roll_ups) & set(self.refused_roll_ups))
        if both:
            raise ValueError(f"roll-ups both given and refused: {', '.join(both)}")
        for specimen in self.denominators:
            silent = [c.code for c in self.classes if specimen not in c.countable]
            if silent:
                raise ValueError(f"{specimen} has a denominator, but {', '.join(silent)} do not say if they count")
        undeclared = sorted({s for c in self.classes for s in c.countable} - set(self.denominators))
        if undeclared:
            raise ValueError(f"classes count on {', '.join(undeclared)}, which has no denominator")
        return self

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of all classes, in order."""
        return tuple(c.code for c in self.classes)

    @property
    def classifier_classes(self) -> tuple[str, ...]:
        """Codes a classifier may answer with, in order."""
        return tuple(c.code for c in self.classes if c.classified)

    def get(self, code: str) -> CellClass:
        """Return the class with this code.

        Raises
        ------
        DataError
            The taxonomy has no such class.
        """
        for cell_class in self.classes:
            if cell_class.code == code:
                return cell_class
        raise DataError(f"taxonomy {self.name} has no class {code!r}; it has {', '.join(self.codes)}")

    def resolve(self, label: str) -> str:
        """Return the code for a code or an alias, upper and lower case alike.

        Raises
        ------
        DataError
            Neither a code nor an alias of this taxonomy.
        """
        wanted = label.casefold()
        for cell_class in self.classes:
            if wanted in {cell_class.code, *(alias.casefold() for alias in cell_class.aliases)}:
                return cell_class.code
        raise DataError(f"{label!r} is no class of taxonomy {self.name}; it has {', '.join(self.codes)}")

    def find(self, label: str) -> str | None:
        """Return the code for a code, an alias, or an English or French name; None where nothing, or several, fit.

        Upper and lower case are alike, and so are blank, dash and underscore.
        """
        wanted = _folded(label)
        for of in (lambda c: (c.code, *c.aliases), lambda c: (c.name_en, c.name_fr)):
            named = [c.code for c in self.classes if wanted in {_folded(name) for name in of(c)}]
            if named:
                return named[0] if len(named) == 1 else None
        return None

    def countable(self, specimen: Specimen) -> tuple[str, ...]:
        """Return the codes in the denominator of a specimen; empty where the specimen has no differential."""
        return tuple(c.code for c in self.classes if c.countable.get(specimen, False))

    def roll_up(self, name: str) -> tuple[str, ...]:
        """Return the codes of a group.

        Raises
        ------
        ConfigError
            The group does not exist, or its meaning is not in this taxonomy; the message says why.
        """
        if name in self.roll_ups:
            return self.roll_ups[name]
        why = self.refused_roll_ups.get(name, f"it has {', '.join(sorted(self.roll_ups))}")
        raise ConfigError(f"taxonomy {self.name} has no roll-up {name!r}: {why}")


def _folded(label: str) -> str:
    return " ".join(label.replace("_", " ").replace("-", " ").casefold().split())


def taxonomy_names() -> tuple[str, ...]:
    """Return the names of the shipped taxonomies.

    Examples
    --------
    >>> "pbc-blast" in taxonomy_names()
    True
    """
    folder = resources.files("wsi_pipeline.taxonomies")
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


def parse_taxonomy(text: str, source: str) -> Taxonomy:
    """Read and check a taxonomy.

    Raises
    ------
    ConfigError
        Not YAML, or not a taxonomy; the message names ``source`` and the key.
    """
    return parse_yaml(Taxonomy, text, source, whole="taxonomy")


def parse_yaml(model: type[_M], text: str, source: str, *, whole: str) -> _M:
    """Read YAML into a model; a problem of the whole is reported under the name ``whole``.

    Raises
    ------
    ConfigError
        Not YAML, or not what the model describes; the message names ``source`` and the key.
    """
    try:
        tree: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML: {error}") from None
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or whole}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{source}: {problems}") from None


@functools.cache
def load_taxonomy(name: str) -> Taxonomy:
    """Return a shipped taxonomy.

    Raises
    ------
    ConfigError
        There is no taxonomy of that name.

    Examples
    --------
    >>> load_taxonomy("five-part").codes[:2]
    ('neutrophil', 'lymphocyte')
    """
    if name not in taxonomy_names():
        raise ConfigError(f"taxonomy {name!r} is unknown; use one of {', '.join(taxonomy_names())}")
    source = resources.files("wsi_pipeline.taxonomies") / f"{name}.yaml"
    taxonomy = parse_taxonomy(source.read_text(encoding="utf-8"), f"{name}.yaml")
    if taxonomy.name != name:
        raise ConfigError(f"{name}.yaml holds taxonomy {taxonomy.name!r}; name and file must agree")
    return taxonomy
