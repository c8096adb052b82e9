"""Pictures of cubes, maps, errors and months, on matplotlib axes, with units.

Every function draws on the axes it is given, or on new ones, and returns them.
"""

from geobiomass.plots.images import (
    applicability,
    biomass,
    comparison,
    error,
    months,
    true_colour,
)
from geobiomass.plots.presence import availability
from geobiomass.plots.scores import calibration, error_by_bin, reliability, scatter
from geobiomass.plots.training import attention, attention_over_year, history
from geobiomass.plots.validation import folds

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
