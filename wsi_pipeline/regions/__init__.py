"""Where to look: tissue of trephines, the monolayer of smears, the whole image, or areas drawn in QuPath."""

from wsi_pipeline.regions.choose import FieldChoice, choose_fields, narrow, regions_from_record, regions_record
from wsi_pipeline.regions.fields import Field, FieldLattice, FieldSet, shortest_prefix, waves
from wsi_pipeline.regions.find import find_regions
from wsi_pipeline.regions.geojson import DrawnArea, read_regions
from wsi_pipeline.regions.regions import Exclusion, Regions, area_mm2, without, write_regions

__all__ = [
    "DrawnArea",
    "Exclusion",
    "Field",
    "FieldChoice",
    "FieldLattice",
    "FieldSet",
    "Regions",
    "area_mm2",
    "choose_fields",
    "find_regions",
    "narrow",
    "read_regions",
    "regions_from_record",
    "regions_record",
    "shortest_prefix",
    "waves",
    "without",
    "write_regions",
]
