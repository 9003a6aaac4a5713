"""What :mod:`wsi_pipeline.cohort` is made of: the plan of a run, its folder, its slides on threads, its end."""
