"""Conformal intervals, variograms and design-based estimators: pure numpy."""
