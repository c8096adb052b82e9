from .report.label_audit import LabelAudit as LabelAudit
from .report.label_audit import audit as audit
from .sources.gedi import read_gedi as read_gedi
from .sources.plot_split import PlotSplit as PlotSplit
from .sources.plot_split import split as split
