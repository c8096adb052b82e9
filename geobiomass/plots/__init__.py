"""Plots of cubes, maps, errors and months on matplotlib axes, with units.

Every function draws on the axes `ax`, or on new ones, and returns them.
"""

from geobiomass.plots.accuracy import calibration, error_by_bin, reliability, scatter
from geobiomass.plots.attention_weights import attention, attention_over_year
from geobiomass.plots.availability import availability
from geobiomass.plots.fold_map import folds
from geobiomass.plots.images import (
    applicability,
    biomass,
    comparison,
    error,
    months,
    true_colour,
)
from geobiomass.plots.training_history import history

__all__ = [
    "applicability",
    "attention",
    "attention_over_year",
    "availability",
    "biomass",
    "calibration",
    "comparison",
    "error",
    "error_by_bin",
    "folds",
    "history",
    "months",
    "reliability",
    "scatter",
    "true_colour",
]
