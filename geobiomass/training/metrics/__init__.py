"""Metrics: each a function of arrays and a class that sums over batches.

Function and class share one update, which reduces arrays to a few float64 sums, and one
compute, which returns the metric of these sums. A target that is NaN does not count;
without any target the metric is NaN. The classes import torchmetrics when they are
first used, the functions do not.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
