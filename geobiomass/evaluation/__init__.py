"""Errors of a map: metrics by bin, and residuals pixel by pixel."""
