"""Maps between taxonomies: a class goes to the class that says the same, or less, but nothing it did not say.

Every class names its meaning. A meaning may be a kind of others (a band is a neutrophil), and a map follows that one
way only: from the finer class to the coarser. It is refused where the target tells apart what the source does not
(a neutrophil is no band), and where the target has no such cell (a blast is none of the five parts). What a map may
never do is change how the cell is counted: a lymphoblast stays out of the myeloid blasts, an abnormal promyelocyte
out of the promyelocytes, a neoplastic lymphocyte out of the lymphocytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.taxonomies.model import CellClass, Taxonomy, load_taxonomy

# Meaning -> what it is a kind of, nearest first. Names follow ICSH (Palmer et al., Int J Lab Hematol 2015;37:287-303).
IS_A: dict[str, tuple[str, ...]] = {
    # granulocytes
    "neutrophil": (),
    "band_neutrophil": ("neutrophil",),
    "segmented_neutrophil": ("neutrophil",),
    "basophil": (),
    "eosinophil": (),
    "abnormal_eosinophil": ("eosinophil",),
    "immature_granulocyte": (),
    "metamyelocyte": ("immature_granulocyte",),
    "myelocyte": ("immature_granulocyte",),
    "promyelocyte": ("promyelocyte_any", "immature_granulocyte"),
    # Promyelocytes of sets that put those of APL among them. Not an immature granulocyte: it may be a leukaemic cell.
    "promyelocyte_any": (),
    # No kind of promyelocyte, not even of promyelocyte_any: a map would hide the sign of an emergency.
    "abnormal_promyelocyte": (),
    "auer_bundle_promyelocyte": ("abnormal_promyelocyte",),
    # blasts
    "blast": (),
    "undifferentiated_blast": ("blast",),
    "myeloblast": ("blast",),
    "monoblast": ("blast",),
    "lymphoblast": ("blast",),
    # monocytes; a promonocyte is a blast equivalent, neither a monocyte nor a blast
    "monocyte": (),
    "promonocyte": (),
    # lymphocytes; neoplastic ones are counted apart
    "lymphocyte": (),
    "large_granular_lymphocyte": ("lymphocyte",),
    "reactive_lymphocyte": ("variant_lymphocyte", "lymphocyte"),
    "variant_lymphocyte": (),
    "immature_lymphocyte": (),
    "prolymphocyte": (),
    "plasma_cell": (),
    "neoplastic_lymphocyte": (),
    "hairy_cell": ("neoplastic_lymphocyte",),
    "cll_cell": ("neoplastic_lymphocyte",),
    "follicular_lymphoma_cell": ("neoplastic_lymphocyte",),
    "mantle_cell_lymphoma_cell": ("neoplastic_lymphocyte",),
    "marginal_zone_lymphoma_cell": ("neoplastic_lymphocyte",),
    "sezary_cell": ("neoplastic_lymphocyte",),
    # erythroid cells and platelets
    "erythroblast": (),
    "proerythroblast": ("erythroblast",),
    "red_cell": (),
    "platelet": (),
    "giant_platelet": ("platelet",),
    "platelet_clump": (),
    "megakaryocyte": (),
    # what was not typed, and what is no cell
    "artefact_or_smudge_cell": (),
    "artefact": ("artefact_or_smudge_cell",),
    "smudge_cell": ("artefact_or_smudge_cell",),
    "not_identifiable": (),
    "young_unidentified": (),
    "other_cell": (),
    "white_cell": (),
    "other_object": (),
}

# Cells that a reader may expect elsewhere: why they do not go there.
_WHY: dict[str, str] = {
    "abnormal_promyelocyte": "an abnormal promyelocyte is read neither as a promyelocyte nor as a blast",
    "auer_bundle_promyelocyte": "an abnormal promyelocyte is read neither as a promyelocyte nor as a blast",
    "promyelocyte_any": "promyelocytes of this set may be abnormal",
    "promonocyte": "a promonocyte is a blast equivalent, neither a monocyte nor a blast",
    "immature_lymphocyte": "an immature lymphocyte is neither a lymphocyte nor, by itself, a lymphoblast",
    "prolymphocyte": "a prolymphocyte is counted apart from lymphocytes",
    "plasma_cell": "a plasma cell is counted apart from lymphocytes",
    "variant_lymphocyte": "a variant lymphocyte may be reactive or neoplastic",
    "platelet_clump": "a clump is many platelets",
}
_NEOPLASTIC = "a neoplastic lymphocyte is counted apart from lymphocytes"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a class has no counterpart.

    Parameters
    ----------
    kind
        ``absent``: the target has no class for such a cell, so the answer lies outside it. ``undecided``: the
        target has classes for some of these cells, and the source does not say which cell it is.
    reason
        A sentence for people.
    """

    kind: Literal["absent", "undecided"]
    reason: str


@dataclass(frozen=True, kw_only=True)
class TaxonomyMap:
    """What the classes of one taxonomy become in another; each is in ``mapped`` or in ``refused``."""

    source: str
    target: str
    mapped: dict[str, str]
    refused: dict[str, Refusal]

    def __getitem__(self, code: str) -> str:
        """Return the target's class.

        Raises
        ------
        DataError
            The class has no counterpart, or the source has no such class; the message says which and why.
        """
        if code in self.mapped:
            return self.mapped[code]
        if code in self.refused:
            raise DataError(f"{self.source} {code} has no counterpart in {self.target}: {self.refused[code].reason}")
        raise DataError(f"taxonomy {self.source} has no class {code!r}")

    def table(self, codes: Iterable[str]) -> dict[str, str | None]:
        """Return the map of some classes for scoring answers against the target's labels.

        Returns
        -------
        dict
            Target code, or None where the target has no such cell; such an answer counts as outside the target's
            classes, never as its nearest neighbour.

        Raises
        ------
        ConfigError
            A class could be several of the target's: its answers can be neither right nor wrong.
        """
        wanted = tuple(codes)
        undecided = [
            f"{c} ({self.refused[c].reason})"
            for c in wanted
            if c in self.refused and self.refused[c].kind == "undecided"
        ]
        if undecided:
            raise ConfigError(
                f"taxonomy {self.source} cannot be mapped to {self.target!r} class by class: their classes do not "
                f"mean the same: {'; '.join(undecided)}"
            )
        return {c: None if c in self.refused else self[c] for c in wanted}


def map_taxonomy(source: str, target: str) -> TaxonomyMap:
    """Return what the classes of a shipped taxonomy become in another.

    Raises
    ------
    ConfigError
        A taxonomy is unknown, or no class of the one means the same as a class of the other.
    """
    return map_classes(load_taxonomy(source), load_taxonomy(target))


def map_classes(source: Taxonomy, target: Taxonomy) -> TaxonomyMap:
    """Return what the classes of a taxonomy become in another; see :func:`map_taxonomy`."""
    if source == target:
        return TaxonomyMap(source=source.name, target=target.name, mapped={c: c for c in source.codes}, refused={})
    codes = {c.meaning: c.code for c in target.classes if c.meaning is not None}
    mapped: dict[str, str] = {}
    refused: dict[str, Refusal] = {}
    for cell_class in source.classes:
        found = next((codes[m] for m in _broader(cell_class.meaning) if m in codes), None)
        if found is None:
            refused[cell_class.code] = _refusal(cell_class, target, codes)
        else:
            mapped[cell_class.code] = found
    if not mapped:
        raise ConfigError(
            f"taxonomy {source.name} cannot be mapped to {target.name!r}: their classes do not mean the same"
        )
    return TaxonomyMap(source=source.name, target=target.name, mapped=mapped, refused=refused)


def _broader(meaning: str | None) -> tuple[str, ...]:
    """Return a meaning and what it is a kind of, nearest first."""
    if meaning is None:
        return ()
    if meaning not in IS_A:
        raise ConfigError(f"meaning {meaning!r} is unknown; use one of {', '.join(IS_A)}")
    found = [meaning]
    for one in found:
        found += [m for m in IS_A[one] if m not in found]
    return tuple(found)


def _refusal(cell_class: CellClass, target: Taxonomy, codes: dict[str, str]) -> Refusal:
    meaning = cell_class.meaning
    if meaning is None:
        return Refusal(kind="absent", reason="the class does not say what it means")
    finer = [code for m, code in codes.items() if m != meaning and meaning in _broader(m)]
    why = _WHY.get(meaning) or (_NEOPLASTIC if "neoplastic_lymphocyte" in _broader(meaning) else "")
    if finer:
        which = f"{target.name} has {', '.join(finer)}, and {cell_class.code} does not say which of them, if any"
        return Refusal(kind="undecided", reason=f"{which}; {why}" if why else which)
    absent = f"{target.name} has no class for {cell_class.name_en}"
    return Refusal(kind="absent", reason=f"{absent}; {why}" if why else absent)
