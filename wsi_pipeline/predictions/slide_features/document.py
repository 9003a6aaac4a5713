"""``docs/slide-features.md`` from the features there are.

``python -m wsi_pipeline.predictions.slide_features.document > docs/slide-features.md``
"""

from __future__ import annotations

from collections.abc import Iterator

from wsi_pipeline.predictions.bags.leakage import NEAR_COSINE
from wsi_pipeline.predictions.slide_features.feature import MIN_CELLS, MIN_RED_CELLS, SlideFeature
from wsi_pipeline.predictions.slide_features.groups import DEFINITIONS
from wsi_pipeline.predictions.slide_features.trephine import SECTION
from wsi_pipeline.predictions.slide_features.vocabulary import features_of
from wsi_pipeline.predictions.slide_features.words import Words
from wsi_pipeline.taxonomies import load_taxonomy

EXAMPLE = "pbc-blast"
"""Taxonomy of the list; those of others have their own classes and roll-ups in the same places."""

_HEAD = f"""\
# Slide and patient features

Written by `python -m wsi_pipeline.predictions.slide_features.document`; a test compares the two. Research use only.

A subject is a patient, whose slides of one specimen are pooled cell by cell, or a slide. Its features are one vector
of numbers, each with the number of cells behind it.

```
wsi-pipeline export slide-features RUN... --out features.csv [--level patient|slide] [--embedding]
```

`features.csv` has a row a subject: `subject_id`, `patient`, `specimen`, `slides`, `cells` (nucleated), then the
features; a value is empty where it cannot be told. `features.n.csv` has the same form and holds the cells behind each
value. Runs of slides and of galleries go together when one classifier typed them.

```python
from pathlib import Path
from wsi_pipeline.predictions.bags import read_bags
from wsi_pipeline.predictions.slide_features import feature_table

table = feature_table(read_bags([Path("results")]))
print(table.names, table.values.shape, table.n.shape)
```

## What is counted

- Cells are those of `kind` `white`, once each: where one slide or image stands under two names of one patient, its
  cells count once. Failed and empty slides and sections have none, and are named.
- The order of cells, slides and runs changes nothing, to the byte.
- The denominator is that of the specimen ([taxonomies](taxonomies.md)). Classes outside it (nucleated red cells in
  blood, platelets, artefacts) are given per cell of the denominator, so they may pass 1.
- Cells that an edge cuts count, and are not measured.
- Quantiles need {MIN_CELLS} measured cells, statistics of embeddings weights that add up to {MIN_CELLS}, indices of red
  cells {MIN_RED_CELLS} judged red cells.
- Labels of folders and readers enter `given` and `label` only. All else is the classifier's, so that subjects with and
  without labels can be compared.
- `given` are labels in the classifier's words; a label that says what none of its classes says is not there. Labels of
  another set are also there in their own words, as `label.<taxonomy>.<class>`, when a cohort has any.
- Trephines have features of their own, listed last: of megakaryocytes, not of white cells
  ([trephines.md](trephines.md)). A command reads smears, or trephines where its runs have no smear.
- `attribute.<attribute>` are there where the classifier answers attributes
  ([dysplasia and attributes](dysplasia-and-attributes.md)).

## Groups

The taxonomy's roll-ups, and
"""

_FOUND = """\
| copy | found | % | 95 % interval |
|---|---|---|---|
| 2 px off each edge | 264 of 264 | 100.0 | 98.6 to 100.0 |
| doubled in size and back | 256 of 264 | 97.0 | 94.1 to 98.5 |
| JPEG of quality 95 | 149 of 264 | 56.4 | 50.4 to 62.3 |
| JPEG of quality 85 | 100 of 264 | 37.9 | 32.2 to 43.9 |
| shifted by 1 px | 124 of 264 | 47.0 | 41.0 to 53.0 |
| turned by 90 degrees | 29 of 264 | 11.0 | 7.8 to 15.3 |
| other cells | 0 of 264 | 0.0 | 0.0 to 1.4 |"""

_SHARED = f"""\
## Cells that two patients share

`cell_leakage(bags)` of `wsi_pipeline.predictions.bags` finds cells of two patients that are one, and returns them as
findings of an [evaluation](evaluation.md): `identical-cells` (the same bytes of an image, or one slide under two names)
and `near-identical-cells` (embeddings of a cosine of at least {NEAR_COSINE:g}, within a class): the image again,
cropped, resampled or compressed anew.

How many copies the second finds, on 264 cells of `pbc` with the classifier `pbc-blast`, Wilson intervals of 95 %
(`python benchmarks/near_cells.py`):

{_FOUND}

It is a sign, not a proof: where it is silent, copies may still be there.
"""


_DIRECTIONS = "Of embeddings the first direction is listed; all others follow it."
_SECTIONS = "Beside them `phenotype.<code>`, the share of each phenotype of the model, where one was given."
_SECTION_WORDS = Words(taxonomy=SECTION, classes=("megakaryocyte",))


def page() -> str:
    """Return the page, with a line feed at its end."""
    words = Words(taxonomy=EXAMPLE, classes=load_taxonomy(EXAMPLE).classifier_classes, embedding_dim=1)
    groups = "\n".join(f"- `{name}`: {what}" for name, what in DEFINITIONS.items())
    smears = [f"## Features of the taxonomy {EXAMPLE}", "", _DIRECTIONS, "", *_table(features_of(words))]
    trephines = ["", "## Features of trephines", "", _SECTIONS, "", *_table(features_of(_SECTION_WORDS))]
    return f"{_HEAD}\n{groups}\n\n{_SHARED}\n" + "\n".join([*smears, *trephines]) + "\n"


def _table(features: tuple[SlideFeature, ...]) -> Iterator[str]:
    yield "| feature | family | unit | what it is; n counts |"
    yield "|---|---|---|---|"
    for f in features:
        yield f"| `{f.name}` | {f.family} | {f.unit} | {f.description} |"


if __name__ == "__main__":
    print(page(), end="")
