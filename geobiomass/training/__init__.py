"""The trainer core, shared by forest maps and pasture photos: tensors only.

Losses, metrics, augmentation, weights and the regressors' contract are modules of
their own, importable without Lightning; the names here load it when first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
