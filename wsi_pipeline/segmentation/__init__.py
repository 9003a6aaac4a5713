"""From pixels to instances: networks, flows to labels, ownership by seed, outlines."""
