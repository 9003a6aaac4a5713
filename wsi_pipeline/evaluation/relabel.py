"""Answers in another taxonomy's classes, or in roll-ups of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wsi_pipeline.errors import DataError
from wsi_pipeline.taxonomies import Taxonomy


def map_labels(labels: Sequence[str], table: Mapping[str, str | None]) -> list[str | None]:
    """Carry answers over to another taxonomy; ``table`` is :meth:`TaxonomyMap.table`.

    Raises
    ------
    DataError
        An answer the table does not name.
    """
    unknown = sorted(set(labels) - set(table))
    if unknown:
        raise DataError(f"classes {', '.join(unknown)} are not in the map, which has {', '.join(table)}")
    return [table[label] for label in labels]


def merge_roll_ups(labels: Sequence[str], taxonomy: Taxonomy, groups: Sequence[str]) -> list[str]:
    """Replace each class of the named roll-ups by the roll-up's name.

    ``("granulocyte_precursors", "neutrophils")`` turns the 11 classes of PBC into its 8.

    Raises
    ------
    DataError
        Two of the roll-ups share a class.
    """
    table: dict[str, str] = {}
    for group in groups:
        for code in taxonomy.roll_up(group):
            if code in table:
                raise DataError(f"roll-ups {table[code]} and {group} both hold {code}")
            table[code] = group
    return [table.get(label, label) for label in labels]
