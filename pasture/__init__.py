"""Grams of grass from photos of pasture, taken from above.

Names are loaded when they are first used, so that ``import pasture`` is quick. What
there is: ``__init__.pyi``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
