"""Acute leukaemia from routine blood counts: AML, ALL or APL, valid only where acute leukaemia is suspected."""
