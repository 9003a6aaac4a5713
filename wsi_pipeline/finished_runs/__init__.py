"""Runs that are done: trained models asked about them, and their reports written again."""
