"""Maps of above-ground biomass from monthly satellite images.

Names are imported when they are first used, so that ``import geobiomass`` is quick.
``__init__.pyi`` lists them, and the API page of the documentation explains them.
"""

import sys
from typing import Any

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"


def load_ipython_extension(shell: Any) -> None:
    """Show cubes and maps as our HTML: in Jupyter, and after ``%load_ext``."""
    from geobiomass.info.notebook import show_in_notebook

    show_in_notebook(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Show cubes and maps as xarray's HTML again, for ``%unload_ext``."""
    from geobiomass.info.notebook import show_as_xarray

    show_as_xarray(shell)


if "IPython" in sys.modules and (_shell := sys.modules["IPython"].get_ipython()):
    load_ipython_extension(_shell)
