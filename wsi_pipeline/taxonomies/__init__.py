"""Label sets as YAML: names, colours, what counts on which specimen, roll-ups, and maps where meaning allows."""

from wsi_pipeline.taxonomies.model import CellClass, Lineage, Maturity, Taxonomy, load_taxonomy, taxonomy_names

__all__ = ["CellClass", "Lineage", "Maturity", "Taxonomy", "load_taxonomy", "taxonomy_names"]
