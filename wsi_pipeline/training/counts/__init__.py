"""The model of acute leukaemia from routine blood counts."""
