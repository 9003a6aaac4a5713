"""Slide-level models: members, folds of patients, calibration, card."""
