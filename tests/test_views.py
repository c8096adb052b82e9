"""Descriptions as text, as HTML in Jupyter, and as JSON."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import dask.array as da
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import make_chips, make_scene
from nbclient import NotebookClient

import geobiomass as gb
from geobiomass.cube.summary import presence
from geobiomass.info.notebook import dataset_html
from geobiomass.network import AttentionUNet
from geobiomass.summary import Summary, Table

BANDS = ("VV_asc", "B04", "B08")


@pytest.fixture(scope="module")
def model() -> gb.BiomassRegressor:
    torch.manual_seed(0)
    network = AttentionUNet(3, "test_resnet", (16, 16, 16, 16, 16))
    return gb.BiomassRegressor(network.eval(), BANDS, months=3)


def cells(html: str) -> list[list[str]]:
    """The rows of all tables; only well-formed HTML is read."""
    root = ElementTree.fromstring(html)
    return [["".join(c.itertext()) for c in row] for row in root.iter("tr")]


# --- what is told --------------------------------------------------------------


def test_a_scene_tells_what_where_how_much_and_what_is_missing(
    scene: xr.Dataset,
) -> None:
    facts = gb.describe(scene)
    assert facts["what"] == "scene"
    assert facts["size"] == "40 x 56 pixels"
    assert facts["bands"] == "VV_asc B04 B08"
    assert facts["reference system"] == "EPSG:3067"
    assert facts["bounds"] == "400000, 6899600, 400560, 6900000"
    assert facts["area"] == "22.4 ha"
    rows = facts.to_dict()["values present"]["rows"]
    assert rows["B08"] == {"Jun": 75, "Jul": 100, "Aug": 100}
    assert json.loads(json.dumps(facts.to_dict())) == facts.to_dict()
    assert str(facts) == repr(facts)
    assert "40 x 56 pixels" in str(facts)


def test_the_html_shows_the_same_with_a_matrix_of_months(scene: xr.Dataset) -> None:
    html = gb.describe(scene).to_html()
    rows = cells(html)
    assert ["size", "40 x 56 pixels"] in rows
    assert ["% by month", "Jun", "Jul", "Aug"] in rows
    # Equal neighbours share a row; every share is written out.
    assert ["VV_asc B04", "100", "100", "100"] in rows
    assert ["B08", "75", "100", "100"] in rows
    shades = [part.split(")")[0] for part in html.split("rgba(0, 114, 178, ")[1:]]
    assert sorted(set(shades)) == ["0.41", "0.55"]
    # Colours of text are the notebook's own, light or dark.
    assert "color:inherit" in html
    assert "<script" not in html
    assert "http" not in html


def test_text_is_escaped() -> None:
    scene = make_scene().assign_attrs(title="<script>alert(1)</script> & more")
    html = gb.describe(scene).to_html()
    assert "<script>" not in html
    assert ["title", "<script>alert(1)</script> & more"] in cells(html)


def test_shares_of_a_cube_on_disk_are_those_it_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chips = make_chips(6)
    chips["image"][2:, 1] = np.nan
    chips["image"][0, 2, 0, 0, 0] = np.nan
    gb.write_cube(chips, tmp_path / "chips.zarr")
    cube = gb.open_cube(tmp_path / "chips.zarr")

    def refuse(*_: object) -> None:
        raise AssertionError("pixels were read")

    monkeypatch.setattr("geobiomass.cube.stored_array.StoredArray.__getitem__", refuse)
    monkeypatch.setattr("geobiomass.cube.summary._share", refuse)
    table = presence(cube)
    assert table is not None
    assert table.note == ""
    assert table.frame.loc["VV_asc"].tolist() == [100, 33, 99]  # 99: not quite all
    part = presence(cube.isel(chip=[3, 1], month=[2, 1], band=[1, 0]))
    assert part is not None
    assert list(part.frame) == ["Aug", "Jul"]
    assert part.frame.loc["B04"].tolist() == [100, 50]
    assert gb.describe(cube)["size"] == "6 chips of 32 x 32 pixels"
    assert "value ranges" in gb.describe(cube)


def test_what_is_not_known_is_sampled_and_says_so(tmp_path: Path) -> None:
    scene = make_scene(600, 520)
    scene["image"][1, :, :100] = np.nan  # not in the middle
    gb.write_cube(scene, tmp_path / "scene.zarr")
    cube = gb.open_cube(tmp_path / "scene.zarr")
    exact, corner = presence(cube), presence(cube.isel(y=slice(0, 500)))
    assert exact is not None
    assert exact.frame.loc["VV_asc", "Jul"] == 83
    assert corner is not None
    assert corner.note == "sampled: the middle"
    assert corner.frame.loc["VV_asc", "Jul"] == 100


def test_nothing_is_computed_that_dask_has_yet_to_compute(
    scene: xr.Dataset,
) -> None:
    def refuse(block: np.ndarray) -> np.ndarray:
        raise AssertionError("computed")

    lazy = scene.copy()
    data = da.from_array(scene["image"].values).map_blocks(refuse, dtype=np.float32)
    lazy["image"] = scene["image"].copy(data=data)
    assert "gb.describe(cube) looks at a few pixels" in dataset_html(lazy)
    with pytest.raises(AssertionError, match="computed"):
        gb.describe(lazy)


def test_a_map_tells_where_and_what_is_missing(
    model: gb.BiomassRegressor, scene: xr.Dataset, tmp_path: Path
) -> None:
    lazy = model.predict(scene, 32, 16)
    facts = gb.describe(lazy)
    assert facts["what"] == "map"
    assert "lazy" in facts["state"]
    assert "values" not in facts
    values = lazy.compute()
    values["agb"][:10] = np.nan
    told = gb.describe(values).to_dict()["values"]["rows"]["agb"]
    assert told["missing, %"] == 25.0
    assert told["mean"] == pytest.approx(float(values["agb"].mean()), abs=0.006)
    assert gb.describe(values["agb"])["size"] == "40 x 56 pixels"
    for name in ("map.zarr", "map.tif"):
        path = model.predict_to(tmp_path / name, scene, 32, 16, progress=False)
        facts = gb.describe(path)
        assert facts["reference system"] == "EPSG:3067"
        assert facts["area"] == "22.4 ha"
        told = facts.to_dict()["values"]["rows"]["agb"]
        assert told["mean"] == pytest.approx(float(lazy["agb"].mean()), abs=0.006)


def test_a_large_map_is_looked_at_by_its_overview(
    model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    scene = make_scene(280, 300)
    path = model.predict_to(
        tmp_path / "map.zarr", scene, 128, 0, overviews=True, progress=False
    )
    facts = gb.describe(path).to_dict()
    assert facts["values"]["note"] == "means of 2 x 2 pixels"
    mean = float(xr.open_zarr(path)["agb"].mean())
    assert facts["values"]["rows"]["agb"]["mean"] == pytest.approx(mean, abs=0.02)


def test_area_on_a_globe() -> None:
    square = xr.Dataset(
        {"agb": (("y", "x"), np.ones((10, 10), np.float32))},
        {"y": 60 - 0.01 * np.arange(10) - 0.005, "x": 0.01 * np.arange(10) + 0.005},
    ).rio.write_crs("EPSG:4326")
    # A tenth of a degree at 60° north: 11.14 km by 5.58 km.
    area = float(gb.describe(square)["area"].split()[0].replace(",", ""))
    assert area == pytest.approx(11.14 * 5.58 * 100, rel=0.005)


def test_models_and_plans_show_themselves(
    model: gb.BiomassRegressor, scene: xr.Dataset
) -> None:
    rows = cells(model._repr_html_())
    assert ["what", "model, BiomassRegressor"] in rows
    assert ["bands", "VV_asc B04 B08"] in rows
    both = gb.Ensemble([model, model])
    assert ["network", "members 2"] in cells(both._repr_html_())
    plan = model.plan(scene, tile=32, overlap=16)
    rows = cells(plan._repr_html_())
    assert ["map", "40 x 56 pixels"] in rows
    assert [row[0] for row in rows][-1] == "takes"
    assert gb.describe(plan)["what"] == "plan of a map"


def test_a_trained_model_tells_its_data_and_error(tmp_path: Path) -> None:
    settings = {"epochs": 1, "batch_size": 4, "crop": 32, "encoder": "test_resnet"}
    settings |= {"decoder_channels": (16,) * 5, "progress": False}
    model = gb.fit(make_scene(64, 80), "quick", **settings)
    model.save(tmp_path / "model")
    for facts in (gb.describe(model), gb.describe(tmp_path / "model")):
        assert facts["recipe"] == "quick"
        assert "blocks of a scene" in facts["trained on"]
        held = facts.to_dict()["held out"]["rows"]["all"]
        known = model.provenance["validation"]["all"]
        assert held["bias"] == pytest.approx(known["bias"])
        assert held["pixels"] == known["pixels"]
    assert gb.describe(model)["trained"] == "1 epoch"


def test_other_things_are_refused() -> None:
    with pytest.raises(TypeError, match="must be a path, a cube, a map, a model"):
        gb.describe(3)
    with pytest.raises(ValueError, match=r"dimensions \(y, x\), got \('t',\)"):
        gb.describe(xr.DataArray([1.0], dims="t"))
    with pytest.raises(FileNotFoundError, match="nothing at"):
        gb.describe("gone.zarr")


def test_tables_keep_their_figures() -> None:
    frame = pd.DataFrame({"pixels": [12345], "bias": [-0.5]}, ["all"])
    table = Table(frame, "a note", decimals=1)
    assert cells(Summary({"t": table}).to_html())[-1] == ["all", "12,345", "-0.5"]
    assert "a note" in table.to_html()
    assert table.to_dict() == {
        "note": "a note",
        "rows": {"all": {"pixels": 12345, "bias": -0.5}},
    }


# --- in Jupyter ----------------------------------------------------------------


def test_other_datasets_are_shown_as_before(scene: xr.Dataset) -> None:
    for other in (
        xr.Dataset({"t": ("time", [1.0])}),
        scene.rename(month="when"),
        scene[["agb"]].drop_attrs(deep=True),
    ):
        assert "class='geobiomass'" not in dataset_html(other)
    assert "class='geobiomass'" in dataset_html(scene)
    with xr.set_options(display_style="text"):
        assert dataset_html(scene).startswith("<pre>")


@pytest.mark.slow
def test_a_cube_and_a_map_show_themselves_in_jupyter() -> None:
    sources = [
        "import geobiomass as gb\nscene = gb.landscape((64, 64)).compute()\nscene",
        "scene[['agb']].drop_vars('spatial_ref')",
        "import xarray as xr\nxr.Dataset({'t': ('time', [1])})",
        "gb.describe(scene)",
        "%reload_ext geobiomass\n%unload_ext geobiomass\nscene",
    ]
    book = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, sources)))
    NotebookClient(book, timeout=120).execute()
    shown = [
        output["data"]["text/html"]
        for cell in book.cells
        for output in cell.outputs
        if "data" in output
    ]
    ours = ["class='geobiomass'" in html for html in shown]
    assert ours == [True, True, False, True, False]
    assert "xarray's own view" in shown[0]
    assert "<td" in shown[0]
    assert "% by month" in shown[0]
