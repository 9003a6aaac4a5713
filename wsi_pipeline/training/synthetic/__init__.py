"""Generated cell images: the generator, and what keeps its images from testing anything."""
