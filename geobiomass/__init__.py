"""Maps of above-ground biomass from monthly satellite images.

Names are loaded when they are first used, so that ``import geobiomass`` is quick.
What there is: ``__init__.pyi``, and the API page of the documentation.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
