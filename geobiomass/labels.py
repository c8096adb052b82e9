"""Labels and plots: footprints of GEDI, an audit sample, labels that look wrong.

Names are imported when they are first used; ``labels.pyi`` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    "geobiomass",
    submod_attrs={
        "report.label_audit": ["LabelAudit", "audit"],
        "sources.gedi": ["read_gedi"],
        "sources.plot_split": ["PlotSplit", "split"],
    },
)
