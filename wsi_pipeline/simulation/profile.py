"""Profiles: what lies on a virtual slide, how densely and in which mix."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from wsi_pipeline.config import Specimen
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.simulation.core_profile import CoreProfile
from wsi_pipeline.simulation.strict import Strict

PROFILES_FOLDER = Path(__file__).resolve().parent / "profiles"

_M = TypeVar("_M", bound=BaseModel)
_Fraction = Annotated[float, Field(ge=0, le=1)]


class LayerProfile(Strict):
    """One kind of thing on the slide."""

    per_mm2: float = Field(ge=0, le=20000, description="Mean number aimed at; crowding may leave fewer.")
    variation: _Fraction = Field(0.0, description="Relative slow change of the density across the slide.")
    sticky: _Fraction = Field(0.0, description="Share that settles against a neighbour of the same layer.")
    overlapping: _Fraction = Field(0.0, description="Share that may lie partly over another.")
    gap: float = Field(1.0, ge=0.8, le=3, description="Least distance in units of the sum of the radii.")
    radius_um: tuple[float, float] | None = Field(None, description="Range of radii of drawn things (fat).")
    clump: tuple[int, int] | None = Field(None, description="Each is a clump of that many, from least to most.")
    mix: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict, description="Class weights.")

    @model_validator(mode="after")
    def _one_content(self) -> LayerProfile:
        if bool(self.mix) == (self.radius_um is not None):
            raise ValueError("give either mix (cells) or radius_um (drawn things)")
        if self.mix and sum(self.mix.values()) <= 0:
            raise ValueError("the weights of mix sum to 0")
        if self.clump is not None and not 1 <= self.clump[0] <= self.clump[1] <= 60:
            raise ValueError("clump is two numbers, the lesser first, from 1 to 60")
        return self


class Profile(Strict):
    """A virtual slide's contents; layers are placed in their order, later ones around earlier ones.

    A ``core`` is a trephine: its bone, fat and megakaryocytes come before the layers.
    """

    name: str
    description: str
    specimen: Specimen
    background: Literal["glass", "tissue"]
    layers: dict[Literal["fat", "white", "megakaryocyte", "clump", "red", "nucleus", "platelet"], LayerProfile]
    core: CoreProfile | None = None

    @model_validator(mode="after")
    def _core_is_of_a_section(self) -> Profile:
        if self.core is not None and (self.background != "tissue" or set(self.layers) != {"nucleus"}):
            raise ValueError("a core needs background tissue and the layer nucleus alone; it places the rest itself")
        return self


def profile_names() -> tuple[str, ...]:
    """Return the names of the shipped profiles."""
    return _names(PROFILES_FOLDER)


def load_profile(source: str | Path) -> Profile:
    """Load a shipped profile by name, or one from a YAML file.

    Raises
    ------
    ConfigError
        No such profile, not YAML, or a key or value that is not allowed.
    """
    path, tree = read_profile("profile", PROFILES_FOLDER, source)
    return checked_profile(Profile, "profile", path, tree)


def read_profile(what: str, folder: Path, source: str | Path) -> tuple[Path, dict[str, Any]]:
    """Return one of the YAML files of a folder by name, or one from elsewhere, and what it holds, unchecked.

    ``what`` is its word in errors.

    Raises
    ------
    ConfigError
        No such file, or not a YAML mapping.
    """
    names = _names(folder)
    path = folder / f"{source}.yaml" if str(source) in names else Path(source)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{what} {source}: not a file and not one of {', '.join(names)}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{what} {path} cannot be read: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{what} {path} holds {type(tree).__name__}, not a mapping")
    return path, tree


def checked_profile(model: type[_M], what: str, path: Path, tree: dict[str, Any]) -> _M:
    """Return what :func:`read_profile` read as a model, or raise :class:`ConfigError` with the keys that are wrong."""
    try:
        return model.model_validate({"name": path.stem, **tree})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{what} {path}: {problems}") from None


def _names(folder: Path) -> tuple[str, ...]:
    """Return the names of the YAML files of a folder, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))
