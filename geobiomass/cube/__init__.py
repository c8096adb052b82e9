"""The cube: its schema, its checks, and its form on disk.

A cube is an :class:`xarray.Dataset` with ``image`` (month, band, y, x), or
(chip, month, band, y, x) for a collection of chips, and optionally ``agb``,
above-ground biomass density in Mg/ha. On disk it is a Zarr v3 group.

Names are imported when they are first used: ``__init__.pyi`` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
