"""``docs/taxonomies.md`` from the YAML files: ``python -m wsi_pipeline.taxonomies.document > docs/taxonomies.md``."""

from __future__ import annotations

from collections.abc import Iterator

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.taxonomies.maps import map_taxonomy
from wsi_pipeline.taxonomies.model import CellClass, Taxonomy, load_taxonomy, taxonomy_names

_HEAD = """\
# Taxonomies

Written by `python -m wsi_pipeline.taxonomies.document` from `wsi_pipeline/taxonomies/*.yaml`, where the sources of the
class lists stand; a test compares the two. Research use only.

A class counts on a specimen when it belongs to the denominator of the differential there. A roll-up that a set cannot
give is refused with the reason. Classes marked "-" are not answered by a classifier: they come from the segmentation.
Codes are shared: the same code has the same colour, lineage and maturity in every set of smears."""

_MAPS = """\
## Maps

`map_taxonomy("mll23", "pbc-blast")` says what each class becomes, or why it becomes nothing. A map goes from the finer
meaning to the coarser, never back, and never changes how a cell is counted. Refused are

- classes the target tells apart and the source does not (`undecided`): a neutrophil is no band, an immature granulocyte
  no myelocyte, a blast of unknown lineage no myeloblast;
- cells the target has no class for (`absent`): a blast is none of the five parts;
- abnormal promyelocytes (APL) as promyelocytes or blasts, promonocytes as monocytes, neoplastic lymphocytes and plasma
  cells as lymphocytes, immature lymphocytes as lymphoblasts.

Of the classes of the row, how many have a counterpart in the column. Sections share nothing with smears."""


def page() -> str:
    """Return the page, with a line feed at its end."""
    taxonomies = [load_taxonomy(name) for name in taxonomy_names()]
    parts = [_HEAD, *("\n".join(_section(t)) for t in taxonomies), "\n".join([_MAPS, "", *_matrix(taxonomies)])]
    return "\n\n".join(parts) + "\n"


def _section(taxonomy: Taxonomy) -> Iterator[str]:
    n = len(taxonomy.classifier_classes)
    yield f"## {taxonomy.name}"
    yield ""
    yield taxonomy.description + (f" Classes of a classifier: {n}." if n else "")
    yield ""
    for specimen, words in taxonomy.denominators.items():
        yield f"- `{specimen}`: {words}"
    if not taxonomy.denominators:
        yield "- no differential"
    yield ""
    yield "| code | label in the data | English | French | colour | lineage | maturity | counts on |"
    yield "|---|---|---|---|---|---|---|---|"
    for cell_class in taxonomy.classes:
        yield _row(cell_class)
    yield ""
    for group, members in taxonomy.roll_ups.items():
        yield f"- `{group}`: {', '.join(members)}"
    for group, why in taxonomy.refused_roll_ups.items():
        yield f"- `{group}` is refused: {why}"


def _row(cell_class: CellClass) -> str:
    labels = ", ".join(f"`{a}`" for a in cell_class.aliases)
    counts = ", ".join(specimen.split("_")[0] for specimen, inside in cell_class.countable.items() if inside)
    cells = (
        f"`{cell_class.code}`",
        labels if cell_class.classified else "-",
        cell_class.name_en,
        cell_class.name_fr,
        "#{:02x}{:02x}{:02x}".format(*cell_class.color),
        cell_class.lineage,
        cell_class.maturity,
        counts,
    )
    return f"| {' | '.join(cells)} |"


def _matrix(taxonomies: list[Taxonomy]) -> Iterator[str]:
    smears = [t for t in taxonomies if t.classifier_classes]
    yield f"| from | {' | '.join(t.name for t in smears)} |"
    yield "|---" * (len(smears) + 1) + "|"
    for source in smears:
        yield f"| {source.name} | {' | '.join(_share(source, target) for target in smears)} |"


def _share(source: Taxonomy, target: Taxonomy) -> str:
    try:
        found = map_taxonomy(source.name, target.name)
    except ConfigError:
        return "none"
    wanted = source.classifier_classes
    return f"{sum(code in found.mapped for code in wanted)}/{len(wanted)}"


if __name__ == "__main__":
    print(page(), end="")
