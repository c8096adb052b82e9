"""A function takes a path or says what it takes; no traceback of a library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import make_scene

import geobiomass as gb
from geobiomass import plots
from geobiomass.cli.account import _in_words


def test_residuals_take_paths_of_maps_and_cubes(tmp_path: Path) -> None:
    scene = make_scene(32, 32)
    layer = scene[["agb"]] + 2
    layer["agb"].attrs = scene["agb"].attrs
    expected = gb.residuals(layer, scene)
    assert (expected["predicted"] - expected["observed"]).abs().max() < 2.01
    gb.write_cube(scene, tmp_path / "scene.zarr")
    layer.rio.write_crs(scene.rio.crs)["agb"].rio.to_raster(tmp_path / "map.tif")
    found = gb.residuals(tmp_path / "map.tif", str(tmp_path / "scene.zarr"))
    columns = ["observed", "predicted", "y", "x"]
    pd.testing.assert_frame_equal(found[columns], expected[columns])


def test_what_is_no_map_model_or_table_is_said(tmp_path: Path) -> None:
    scene = make_scene(32, 32)
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: gb.residuals(5, scene), "map must be an xarray .* got a int"),
        (lambda: plots.biomass("map.tif"), "map must be an xarray .* got a str"),
        (lambda: plots.history("model"), "history must be of a model, .* got a str"),
        (lambda: plots.reliability("model"), "scores must be a table .* got a str"),
        (lambda: plots.error_by_bin(pd.DataFrame()), "scores must be a table"),
        (lambda: gb.Ensemble(["model-1"]), "models in memory, got a str"),  # type: ignore[list-item]
    ]
    for ask, message in wrong:
        with pytest.raises(ValueError, match=message):
            ask()
    with pytest.raises(TypeError, match="an address or a store of Zarr, got a int"):
        gb.provenance(5)  # type: ignore[arg-type]


def test_totals_print_the_hectares_without_a_value() -> None:
    names = ["method", "plots", "area", "unmapped", "mean", "total", "total_lower"]
    row = ["map", 0, 90.0, 10.0, 5.0, 450.0, 400.0, 500.0, "t", 200.0, ""]
    names += ["total_upper", "interval", "carbon", "note"]
    table = pd.DataFrame([row], ["all"], names)
    units = {"area": "ha", "unmapped": "ha", "mean": "Mg/ha", "total": "Mg"}
    table.attrs = {"units": units, "confidence": 0.9, "based_on": "model"}
    head, body = _in_words(table).splitlines()[:2]
    assert head.split().index("unmapped") == head.split().index("area") + 2
    assert body.split()[:5] == ["all", "map", "0", "90", "10"]
