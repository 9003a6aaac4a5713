"""Labels that were corrected in QuPath."""
