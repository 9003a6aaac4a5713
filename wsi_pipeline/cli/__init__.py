"""Thin commands; the work is elsewhere."""
