"""The georeference of a map as attributes of the Zarr conventions, which GDAL reads.

The CF grid mapping, which rioxarray reads, contains the same: `proj` [1]_ names the
reference system, `spatial` [2]_ describes the grid of pixels.

References
----------
.. [1] https://github.com/zarr-conventions/proj/blob/v0.1/README.md
.. [2] https://github.com/zarr-conventions/spatial/blob/v0.1/README.md
.. [3] https://github.com/zarr-conventions/multiscales/blob/v0.1/README.md
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import xarray as xr

from geobiomass.cube.grid import transform_of

if TYPE_CHECKING:
    from affine import Affine

REGISTRY = "zarr_conventions"
"""Attribute that lists the conventions that a node follows."""


@dataclass(frozen=True)
class Convention:
    """A Zarr convention, as nodes that follow it declare it.

    Parameters
    ----------
    name : str
        Name of the convention and of its repository.
    uuid : str
        Identifies it to readers; the same for all versions.
    description : str
        From its schema.
    version : str
        Tag of the schema that the attributes follow.
    """

    name: str
    uuid: str
    description: str
    version: str = "v0.1"

    def entry(self) -> dict[str, str]:
        """Return the convention's entry in the list of conventions."""
        repository = f"zarr-conventions/{self.name}"
        return {
            "schema_url": f"https://raw.githubusercontent.com/{repository}/refs/tags/"
            f"{self.version}/schema.json",
            "spec_url": f"https://github.com/{repository}/blob/{self.version}/README.md",
            "uuid": self.uuid,
            "name": self.name,
            "description": self.description,
        }


PROJ = Convention(
    "proj",
    "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "Coordinate reference system information for geospatial data",
)
SPATIAL = Convention(
    "spatial",
    "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
    "Spatial coordinate information",
)
MULTISCALES = Convention(
    "multiscales",
    "d35379db-88df-4056-af3a-620245f8e347",
    "Multiscale layout of zarr datasets",
)


def conventions_of(template: xr.Dataset) -> dict[str, Any]:
    """Return the attributes that describe a map's georeference.

    Parameters
    ----------
    template : xarray.Dataset
        A map on a regular grid, (y, x), with `y` and `x` at pixel centres and the
        grid mapping `spatial_ref`; only its coordinates are read.

    Returns
    -------
    dict
        ``zarr_conventions`` and the ``spatial:`` and ``proj:`` attributes of the
        Zarr group, plain JSON. Only what is known: nothing for chips and without a
        transform, no ``proj:`` without a reference system, no ``proj:code`` for a
        system that EPSG does not list.
    """
    transform = transform_of(template)
    if transform is None:
        return {}
    height, width = template.sizes["y"], template.sizes["x"]
    attributes = spatial_attributes(transform, height, width)
    system = _reference_system(template)
    kept = [SPATIAL, PROJ] if system else [SPATIAL]
    return {REGISTRY: declare((), *kept), **attributes, **system}


def undeclared(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return only the attributes that netCDF stores as well: text and numbers.

    A convention is declared by a list of mappings, and its dimensions are a list of
    text, so a map that declares one cannot be written with ``to_netcdf``. The CF grid
    mapping says the same, which GDAL, rioxarray and QGIS read. Overviews, which no
    other attribute describes, declare all of it.
    """
    left_out = (REGISTRY, "spatial:dimensions")
    return {k: v for k, v in attributes.items() if k not in left_out}


def declare(
    present: Iterable[Mapping[str, str]], *conventions: Convention
) -> list[dict[str, str]]:
    """Return a list of conventions with these added, each once."""
    known = {convention.uuid for convention in conventions}
    others = [dict(entry) for entry in present if entry.get("uuid") not in known]
    return others + [convention.entry() for convention in conventions]


def spatial_attributes(transform: Affine, height: int, width: int) -> dict[str, Any]:
    """Return the ``spatial:`` attributes of a grid of pixels, (y, x)."""
    a, b, c, d, e, f = (float(number) for number in transform[:6])
    corners = [(x, y) for x in (0, width) for y in (0, height)]
    across = [a * x + b * y + c for x, y in corners]
    down = [d * x + e * y + f for x, y in corners]
    return {
        "spatial:dimensions": ["y", "x"],
        "spatial:bbox": [min(across), min(down), max(across), max(down)],
        "spatial:transform_type": "affine",
        "spatial:transform": [a, b, c, d, e, f],
        "spatial:shape": [height, width],
        "spatial:registration": "pixel",
    }


def _reference_system(template: xr.Dataset) -> dict[str, str]:
    import rioxarray  # noqa: F401  (the .rio accessor)

    crs = template.rio.crs
    if crs is None:
        return {}
    described = {"proj:wkt2": crs.to_wkt(version="WKT2_2019")}
    # With less confidence the code could belong to a similar system.
    code = crs.to_epsg(confidence_threshold=100)
    return described if code is None else {"proj:code": f"EPSG:{code}", **described}
