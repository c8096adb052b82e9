"""Packages that are not installed: one sentence, which says how to get them."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import geobiomass as gb
import pasture
from geobiomass.training.packages import MissingPackageError, need
from pasture import baseline, plots
from pasture.photos import TARGETS

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]
CALLS = {
    "gb.plots.biomass(picture)": ("plots", ["matplotlib"]),
    "gb.plots.comparison(cube, picture)": ("plots", ["matplotlib"]),
    "gb.plots.months(cube)": ("plots", ["matplotlib"]),
    "from geobiomass.maps.web import explore_map; explore_map(picture)": (
        "plots",
        ["folium"],
    ),
    "gb.from_stac('items.json', (1, 1, 2, 2))": ("stac", ["pystac_client"]),
    "gb.survey_archive('items.json', (1, 1, 2, 2))": ("stac", ["pystac_client"]),
    "gb.with_labels(cube, 'plots.gpkg')": ("vectors", ["geopandas"]),
    "plots.scatter(grams, grams)": ("plots", ["matplotlib"]),
    "plots.sheet(grams, grams)": ("plots", ["matplotlib"]),
    "pasture.balanced_folds(grams)": ("pasture", ["numba"]),
    "baseline.ColourIndexRidge().fit(grams)": ("demo", ["sklearn"]),
    "from geobiomass.cli import demo; demo.run('nowhere')": (
        "demo",
        ["sklearn", "matplotlib"],
    ),
    "from pasture import demo; demo.run('nowhere')": ("demo", ["sklearn"]),
    "gb.open_cube('s3://bucket/cube.zarr')": ("s3", ["s3fs"]),
    "gb.from_biomassters('nowhere', download=True)": ("s3", ["s3fs"]),
    "from geobiomass.info import describe; describe('s3://bucket/a.tif')": (
        "s3",
        ["s3fs"],
    ),
    "from geobiomass.maps.destination import Destination; "
    "Destination.of('s3://bucket/a.tif', None)": ("s3", ["s3fs"]),
}


def test_what_needs_an_extra_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    centres = {"y": [0, 1], "x": [0, 1]}
    known = {
        "gb": gb,
        "pasture": pasture,
        "baseline": baseline,
        "plots": plots,
        "cube": gb.landscape(8, months=1),
        "picture": xr.DataArray(np.zeros((2, 2)), dims=("y", "x"), coords=centres),
        "grams": pd.DataFrame({name: [1.0] for name in TARGETS}),
    }
    for call, (extra, hidden) in CALLS.items():
        lacking = hidden[-1]
        with monkeypatch.context() as patch:
            for name in hidden:
                patch.setitem(sys.modules, name, None)
            with pytest.raises(MissingPackageError) as caught:
                exec(call, known)
        assert re.fullmatch(
            rf"[^:]* needs .*{lacking}.*, and {lacking} "
            rf"is not installed: pip install 'geobiomass\[{extra}\]'",
            str(caught.value),
        ), call
        assert extra in EXTRAS
    assert not list(tmp_path.iterdir())


def test_the_command_line_says_so_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, errors = run("demo", "--out", "demo")
    assert code == 2, errors
    assert errors.count("\n") == 1
    assert "pip install 'geobiomass[demo]'" in errors


def test_a_package_that_is_there_and_broken_is_another_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brokenpackage.py").write_text("import notinstalledanywhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="notinstalledanywhere") as caught:
        need("A test", "plots", "brokenpackage")
    assert not isinstance(caught.value, MissingPackageError)
    need("A test", "plots", "json", "tomllib")


def test_the_core_holds_no_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[\[<>=!;]", text)[0] for text in requirements}

    core = names(project["dependencies"])
    for extra in (
        "plots",
        "pasture",
        "demo",
        "export",
        "fast",
        "s3",
        "stac",
        "vectors",
    ):
        assert not core & names(EXTRAS[extra]), extra
    (everything,) = EXTRAS["all"]
    listed = set(everything.removeprefix("geobiomass[").rstrip("]").split(","))
    assert listed == EXTRAS.keys() - {"all", "benchmarks", "dev", "docs"}
