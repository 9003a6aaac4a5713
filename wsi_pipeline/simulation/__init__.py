"""Virtual slides made of real cells, with known truth."""

from wsi_pipeline.simulation.cohort import Cohort, make_cohort
from wsi_pipeline.simulation.demo import DemoSlide, make_demo_slides
from wsi_pipeline.simulation.profile import Profile, load_profile, profile_names
from wsi_pipeline.simulation.slide import TRUTH_COLUMNS, VirtualSlide, make_virtual_slide
from wsi_pipeline.simulation.split import is_reserved

__all__ = [
    "TRUTH_COLUMNS",
    "Cohort",
    "DemoSlide",
    "Profile",
    "VirtualSlide",
    "is_reserved",
    "load_profile",
    "make_cohort",
    "make_demo_slides",
    "make_virtual_slide",
    "profile_names",
]
