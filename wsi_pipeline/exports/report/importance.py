"""Which classes of cells a reader looks at first, and how many pictures a page has room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from wsi_pipeline.taxonomies import Taxonomy

# Roll-ups whose cells may change what is done today, the most urgent first; some are so on blood alone.
_ALERTS = (
    "abnormal_promyelocytes", "auer_bundle_promyelocytes", "myeloid_blasts", "lymphoblasts", "blasts",
    "neoplastic_lymphocytes",
)  # fmt: skip
_ALERTS_ON_BLOOD = ("not_in_normal_blood", "promyelocytes", "granulocyte_precursors", "erythroid")
_LAST = ("artefacts",)
_LAST_KINDS = ("red", "platelet", "other")
# Shapes of red cells that are looked for first.
_RED_FIRST = ("schistocyte", "teardrop", "spherocyte", "target_cell")


def key_classes(taxonomy: Taxonomy, specimen: str) -> tuple[str, ...]:
    """Return the classes of cells that a reader must see, the most urgent first.

    Blasts and abnormal promyelocytes are on every smear; on blood immature cells, nucleated red cells and whatever
    normal blood does not have are, too.
    """
    groups: Mapping[str, Sequence[str]] = taxonomy.roll_ups
    wanted = (*_ALERTS, *(_ALERTS_ON_BLOOD if specimen == "blood_smear" else ()))
    return tuple(dict.fromkeys(code for group in wanted for code in groups.get(group, ())))


def rank_of(code: str, kind: str, taxonomy: Taxonomy, specimen: str) -> tuple[int, int]:
    """Return the place of a class among galleries: key classes, nucleated cells, red cells, platelets, artefacts."""
    keys = key_classes(taxonomy, specimen)
    if code in keys:
        return 0, keys.index(code)
    if any(code in taxonomy.roll_ups.get(group, ()) for group in _LAST):
        return 3, 0
    if kind in _LAST_KINDS:
        first = _RED_FIRST.index(code) if code in _RED_FIRST else len(_RED_FIRST)
        return 2, 100 * _LAST_KINDS.index(kind) + first
    return 1, 0


class _HasPictures(Protocol):
    @property
    def weight_bytes(self) -> int: ...

    def shortened(self, most: int) -> _HasPictures: ...


_P = TypeVar("_P", bound=_HasPictures)


def within(galleries: Sequence[_P], most_bytes: int, most_cells: int) -> list[_P]:
    """Shorten galleries evenly until all together are small enough; a class always keeps a picture.

    Parameters
    ----------
    galleries
        With ``weight_bytes`` and ``shortened(most)``, which keeps ``most`` cells of either half.
    most_bytes
        Of all pictures together, as they stand in the page.
    most_cells
        Of either half of a gallery, at the start.
    """
    found = list(galleries)
    while most_cells > 1 and sum(one.weight_bytes for one in found) > most_bytes:
        most_cells -= 1
        found = [one.shortened(most_cells) for one in found]  # type: ignore[misc]
    return found
