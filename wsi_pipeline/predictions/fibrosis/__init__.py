"""Fibrosis of reticulin-stained trephines: tiles of marrow, a network that ranks them, and the index of a slide."""

from wsi_pipeline.predictions.fibrosis.index import FibrosisIndex, fibrosis_index, fibrosis_prediction
from wsi_pipeline.predictions.fibrosis.network import FibrosisModel, FibrosisNetwork, load_fibrosis_model
from wsi_pipeline.predictions.fibrosis.patient import patient_index
from wsi_pipeline.predictions.fibrosis.tiles import TILE_UM, FibreTile, TileGrid, see_tile

__all__ = [
    "TILE_UM",
    "FibreTile",
    "FibrosisIndex",
    "FibrosisModel",
    "FibrosisNetwork",
    "TileGrid",
    "fibrosis_index",
    "fibrosis_prediction",
    "load_fibrosis_model",
    "patient_index",
    "see_tile",
]
