"""What the class folders of a gallery mean, and which of the classifier's answers say the same.

A folder's name is looked up in the classifier's own taxonomy, then in the others, by code, alias, English or French
name. It is compared with the classifier where some answer says the same: the same class, a class that the label
embraces (the label *neutrophil*, the answer *band neutrophil*), or a class that embraces the label (*myeloblast*,
*blast*), as :mod:`wsi_pipeline.taxonomies.maps` allows. A label that no answer can say is kept and not compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.taxonomies import Taxonomy, load_taxonomy, taxonomy_names
from wsi_pipeline.taxonomies.maps import map_classes


@dataclass(frozen=True, kw_only=True)
class GivenLabel:
    """One class folder's name.

    Attributes
    ----------
    label
        The folder's name.
    taxonomy, code
        Where it was found, and its class; None for a name that is kept although no taxonomy knows it.
    agrees
        Answers of the classifier that say the same; empty: the label is not compared.
    note
        Why it is not compared.
    """

    label: str
    taxonomy: str | None = None
    code: str | None = None
    agrees: tuple[str, ...] = ()
    note: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Labels of one key mean the same."""
        return (self.taxonomy or "", self.code or self.label)


def resolve_labels(
    labels: Sequence[str],
    *,
    own: Taxonomy,
    answers: Sequence[str],
    where: Path,
    taxonomy: str | None = None,
    keep_unknown: bool = False,
) -> tuple[GivenLabel, ...]:
    """Return what each label means.

    Parameters
    ----------
    labels
        Names of class folders.
    own, answers
        The classifier's taxonomy, and the classes it answers with.
    where
        The gallery, for messages.
    taxonomy
        The only taxonomy to look in; None: the classifier's, then all others.
    keep_unknown
        Keep names that no taxonomy knows, without comparing them.

    Raises
    ------
    ConfigError
        Unknown labels, named with those that are known, or labels that two taxonomies use for different cells.
    """
    searched = [load_taxonomy(taxonomy)] if taxonomy else [own, *_others(own)]
    found: list[GivenLabel] = []
    unknown: list[str] = []
    for label in labels:
        given = _look_up(label, searched, own, answers, where)
        if given is None:
            unknown.append(label)
            given = GivenLabel(label=label, note="no taxonomy knows this name")
        found.append(given)
    if unknown and not keep_unknown:
        known = load_taxonomy(taxonomy) if taxonomy else own
        others = "" if taxonomy else f"; the classes of {', '.join(t.name for t in searched[1:])} are known too"
        raise ConfigError(
            f"--gallery {where}: class folders that are no classes: {', '.join(unknown)}. Taxonomy {known.name} has "
            f"{', '.join(known.classifier_classes)}{others}. Rename the folders, name their --label-taxonomy, or keep "
            "them as labels that are not compared with --keep-unknown-labels"
        )
    return tuple(found)


def class_names_only(names: Sequence[str], own: Taxonomy) -> bool:
    """Return whether all names are classes of some taxonomy of single cells."""
    return bool(names) and all(any(t.find(name) for t in (own, *_others(own))) for name in names)


def _others(own: Taxonomy) -> list[Taxonomy]:
    """Return the other taxonomies that classifiers of nucleated cells answer in."""
    loaded = (load_taxonomy(name) for name in taxonomy_names() if name not in (own.name, "red-cells"))
    return [t for t in loaded if t.classifier_classes]


def _look_up(
    label: str, searched: Sequence[Taxonomy], own: Taxonomy, answers: Sequence[str], where: Path
) -> GivenLabel | None:
    hits = [(t, code) for t in searched if (code := t.find(label)) is not None]
    # What the segmentation alone names (red cells) says less than a class of another set.
    hits = [hit for hit in hits if hit[1] in hit[0].classifier_classes] or hits
    if not hits:
        return None
    chosen, code = hits[0]
    if chosen.name != own.name:
        meanings = {t.get(c).meaning: f"{c} of {t.name}" for t, c in hits}
        if len(meanings) > 1:
            raise ConfigError(
                f"--gallery {where}: class folder {label} may be {' or '.join(meanings.values())}, which are not the "
                "same cells; say which with --label-taxonomy"
            )
    agrees = _same(chosen, code, own, answers)
    note = "" if agrees else f"{own.name} has no answer that says {chosen.get(code).name_en}"
    return GivenLabel(label=label, taxonomy=chosen.name, code=code, agrees=agrees, note=note)


def _same(taxonomy: Taxonomy, code: str, own: Taxonomy, answers: Sequence[str]) -> tuple[str, ...]:
    """Return the answers that mean the class, a part of it, or what it is a part of."""
    if taxonomy.name == own.name:
        return tuple(a for a in answers if a == code)
    try:
        to_label, to_answer = map_classes(own, taxonomy).mapped, map_classes(taxonomy, own).mapped
    except ConfigError:
        return ()
    return tuple(a for a in answers if to_label.get(a) == code or to_answer.get(code) == a)
