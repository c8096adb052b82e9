"""Vector files: every kind that geopandas reads, one layer of it."""

from __future__ import annotations

import os
from typing import Any

from geobiomass.tables.columns import TableError
from geobiomass.tables.unpacking import check_packed
from geobiomass.tables.vector_content import check_own_data
from geobiomass.training.packages import need


def read_vectors(path: str, layer: str | None = None) -> Any:
    """Read one layer of a vector file as a GeoDataFrame.

    Parameters
    ----------
    path : str
        A vector file.
    layer : str, optional
        The layer of a file with several.

    Raises
    ------
    TableError
        If the file has several layers and none is named, or lacks the one named.
    """
    need(f"Reading {path}", "vectors", "geopandas", "pyogrio")
    import geopandas
    import pyogrio

    if os.path.isfile(path):
        check_packed(path)
    check_own_data(path)
    file = f"/vsigzip/{os.path.abspath(path)}" if path.lower().endswith(".gz") else path
    try:
        layers = [str(name) for name, kind in pyogrio.list_layers(file) if kind]
        if layer is None and len(layers) > 1:
            raise TableError(
                f"{path} has several layers, {layers}; say which, "
                f"'{path}|layername={layers[0]}', or pass the table, "
                "geopandas.read_file(path, layer=...)."
            )
        if layer is not None and layer not in layers:
            raise TableError(f"{path} has no layer {layer!r}, it has {layers}.")
        chosen = layer or (layers[0] if layers else None)
        return geopandas.read_file(file, layer=chosen)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"{path} cannot be read: {error}.") from error
