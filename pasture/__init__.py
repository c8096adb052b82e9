"""Pasture biomass in grams from photos taken from above.

Names are loaded when they are first used, so that ``import pasture`` is quick. The
public names are listed in ``__init__.pyi``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
