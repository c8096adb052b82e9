"""Trainer core, shared by forest maps and pasture photos; it works with tensors only.

Names are imported when they are first used. Losses, metrics, augmentation, settings,
weights and the base class of the regressors do not import Lightning.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
