"""Conformal prediction intervals, variograms and design-based estimators."""
