"""A landscape's embeddings as Zarr stores of the geo-embeddings convention."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.cube.grid import Grid
from geobiomass.sources.landscape.embedding_vectors import (
    Vectors,
    scales_of,
    squares_of,
)

_CONVENTION = {
    "name": "geoemb:",
    "uuid": "61c12cc5-0e28-4056-999a-480cf3fb7e4c",
    "schema_url": "https://raw.githubusercontent.com/geo-embeddings/"
    "embeddings-zarr-convention/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/geo-embeddings/embeddings-zarr-convention/blob/"
    "v1/README.md",
}
_PLACE = (
    {"name": "proj:", "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f"},
    {"name": "spatial:", "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4"},
)
_INNER, _SHARD = 32, 4096  # pixels along a side of TESSERA's chunks and shards


def write_zones(
    vectors: Mapping[int, Vectors], grid: Grid, zone: int, folder: Path
) -> str:
    """Write a Zarr store with a group for the zone, as TESSERA v2: with prefixes."""
    import zarr

    depths = (4, 16, 128)
    names = {depth: f"embeddings_d{depth}" for depth in depths[:-1]}
    names[depths[-1]] = "embeddings"
    root = zarr.open_group(str(folder / "tessera.zarr"), mode="w", zarr_format=3)
    root.update_attributes(
        {
            "zarr_conventions": [_CONVENTION],
            "geoemb:type": "pixel",
            "geoemb:dimensions": depths[-1],
            "geoemb:model": "https://geotessera.org/model/2.0",
            "geoemb:source_data": ["a synthetic landscape"],
            "geoemb:data_type": "int8",
            "geoemb:gsd": grid.transform.a,
            "geoemb:spatial_layout": "utm_zones",
            "geoemb:quantization": {
                "method": "per_pixel_scale",
                "original_dtype": "float32",
                "quantized_dtype": "int8",
                "scale": {"type": "array", "array_name": "scales", "nodata": "+inf"},
            },
            "geoemb:depths": [
                {"dimensions": depth, "array": name} for depth, name in names.items()
            ],
        }
    )
    group = root.create_group(f"utm{zone % 100:02d}")
    group.update_attributes(_place_of(grid, zone))
    stored, scales = zip(*map(scales_of, vectors.values()), strict=True)
    _write_years(group, vectors)
    for depth, name in names.items():
        _write_array(group, name, np.stack(stored)[:, :depth], 0)
    # A scale that is no number marks water and gaps.
    without = np.nan_to_num(np.stack(scales), nan=np.inf, posinf=np.inf)
    _write_array(group, "scales", without, np.nan)
    return "tessera.zarr"


def write_squares(
    vectors: Mapping[int, Vectors], grid: Grid, zone: int, folder: Path
) -> str:
    """Write a Zarr store of one group with AlphaEarth's numbers."""
    import zarr

    root = zarr.open_group(str(folder / "aef.zarr"), mode="w", zarr_format=3)
    root.update_attributes(
        {
            "geoemb:type": "pixel",
            "geoemb:dimensions": 64,
            "geoemb:model": "https://arxiv.org/abs/2507.22291",
            "geoemb:source_data": ["a synthetic landscape"],
            "geoemb:data_type": "int8",
            "geoemb:gsd": grid.transform.a,
            "geoemb:quantization": {
                "method": "signed_square",
                "original_dtype": "float32",
                "quantized_dtype": "int8",
                "formula": "(x / 127.5) ** 2 * sign(x)",
                "valid_range": [-127, 127],
                "nodata": -128,
            },
            **_place_of(grid, zone),
            "zarr_conventions": [_CONVENTION, *_PLACE],
        }
    )
    _write_years(root, vectors)
    stored = np.stack([squares_of(one) for one in vectors.values()])
    _write_array(root, "embeddings", stored, -128)
    return "aef.zarr"


def _place_of(grid: Grid, zone: int) -> dict[str, Any]:
    """Return the attributes of ``proj:`` and ``spatial:``."""
    corner = grid.transform
    return {
        "zarr_conventions": [*_PLACE],
        "proj:code": f"EPSG:{zone}",
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": list(corner)[:6],
        "spatial:shape": [grid.height, grid.width],
        "spatial:registration": "pixel",
    }


def _write_years(group: Any, vectors: Mapping[int, Vectors]) -> None:
    years = np.array(list(vectors), np.int32)
    array = group.create_array(
        "time", shape=years.shape, dtype=years.dtype, dimension_names=["time"]
    )
    array[:] = years


def _write_array(group: Any, name: str, values: npt.NDArray[Any], fill: Any) -> None:
    """Write (time, band, y, x) or (time, y, x), in shards of inner chunks."""
    layers, (height, width) = values.shape[1:-2], values.shape[-2:]
    # TESSERA's shards have 4,096 pixels along a side, also at the edge of an array;
    # these end with the landscape, as the whole of one is held while it is written.
    shard = [min(_SHARD, -(-side // _INNER) * _INNER) for side in (height, width)]
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(1, *layers, _INNER, _INNER),
        shards=(1, *layers, *shard),
        fill_value=fill,
        dimension_names=["time", "band", "y", "x"] if layers else ["time", "y", "x"],
    )
    array[:] = values
