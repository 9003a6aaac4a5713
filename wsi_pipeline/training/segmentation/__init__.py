"""Segmentation networks: the shipped recipes, and training on a user's own fields."""
