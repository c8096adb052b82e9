"""The cube: its schema, its checks, and its form on disk.

A cube is an :class:`xarray.Dataset` with ``image`` (month, band, y, x), or
(chip, month, band, y, x) for a collection of chips, and optionally ``agb``,
above-ground biomass density in Mg/ha. On disk it is a Zarr v3 group.
"""

from geobiomass.cube.convert import as_cube
from geobiomass.cube.cube_writer import write_cube
from geobiomass.cube.schema import (
    BIOMASSTERS_BANDS,
    CubeError,
    DamagedError,
    UnreachableError,
    check_cube,
    is_chips,
    select_bands,
)
from geobiomass.cube.sealing import seal, verify
from geobiomass.cube.statistics import band_statistics
from geobiomass.cube.store import open_cube

__all__ = [
    "BIOMASSTERS_BANDS",
    "CubeError",
    "DamagedError",
    "UnreachableError",
    "as_cube",
    "band_statistics",
    "check_cube",
    "is_chips",
    "open_cube",
    "seal",
    "select_bands",
    "verify",
    "write_cube",
]
