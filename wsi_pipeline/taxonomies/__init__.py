"""Label sets as YAML: names, colours, what counts on which specimen, roll-ups, and maps where meaning allows."""

from wsi_pipeline.taxonomies.maps import Refusal, TaxonomyMap, map_taxonomy
from wsi_pipeline.taxonomies.model import CellClass, Lineage, Maturity, Taxonomy, load_taxonomy, taxonomy_names

__all__ = [
    "CellClass",
    "Lineage",
    "Maturity",
    "Refusal",
    "Taxonomy",
    "TaxonomyMap",
    "load_taxonomy",
    "map_taxonomy",
    "taxonomy_names",
]
