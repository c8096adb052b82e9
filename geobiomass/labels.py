"""Labels and plots: footprints of GEDI as a table that `gb.with_labels` takes."""

from geobiomass.sources.gedi import read_gedi

__all__ = ["read_gedi"]
