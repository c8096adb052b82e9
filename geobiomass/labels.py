"""Labels and plots before they are used: footprints of GEDI, an audit sample."""

from geobiomass.sources.gedi import read_gedi
from geobiomass.sources.plot_split import PlotSplit, split

__all__ = ["PlotSplit", "read_gedi", "split"]
