"""What :mod:`wsi_pipeline.pipeline` is made of: one slide to be run, its stages on a worker, its end."""
