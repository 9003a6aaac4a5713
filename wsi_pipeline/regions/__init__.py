"""Where to look: tissue of trephines, the stained area of smears, the whole image, or areas drawn in QuPath."""

from wsi_pipeline.regions.find import find_regions
from wsi_pipeline.regions.geojson import DrawnArea, read_regions
from wsi_pipeline.regions.regions import Exclusion, Regions, write_regions

__all__ = ["DrawnArea", "Exclusion", "Regions", "find_regions", "read_regions", "write_regions"]
