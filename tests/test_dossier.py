"""The dossier: one page of totals for an auditor, and a script that makes it again."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rioxarray  # noqa: F401  (the .rio accessor)
import typer
import xarray as xr
from carbon_map import EAST, SIDE, WEST, a_map, some_plots
from test_report import Page
from typer.testing import CliRunner

import geobiomass as gb
from geobiomass.accounting import Carbon, Factor, ParameterCovariance, RootShoot
from geobiomass.accounting.error_model import ErrorModel
from geobiomass.cli import app
from geobiomass.cube import CubeError
from geobiomass.report.dossier_script import Call, make_again, script_of
from geobiomass.report.fingerprints import (
    FOLDER,
    SEALED,
    check_fingerprints,
    fingerprint_of,
)
from geobiomass.statistics.interval_of_mean import IntervalRule
from geobiomass.statistics.variogram import Variogram

ODD = 'the "west" \\ <b>"""</b>'  # a name that HTML and Python must not read
REGIONS = {ODD: WEST, "east": EAST}
JUMP = RootShoot(Factor(0.2), Factor(0.4))
FACTORS = {ODD: Carbon((0.47, 0.01), 0.24), "east": Carbon((0.5, 0), JUMP)}


def textured() -> xr.Dataset:
    """Return a map that varies, with a gap and a strip outside of the training data."""
    made = a_map()
    made["agb"] = made.agb + 30 * np.random.default_rng(2).standard_normal((SIDE, SIDE))
    made["agb"] = made.agb.assign_attrs(units="Mg/ha")
    made.agb[:4, :10] = np.nan
    made["applicable"] = xr.ones_like(made.agb)
    made.applicable[:, -4:] = 0
    return made


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    made = textured()
    made.to_zarr(folder / "map.zarr", zarr_format=3, consolidated=False)
    plots = some_plots(n=60)
    at = {name: plots[name].to_xarray() for name in ("x", "y")}
    mapped = made.agb.sel(at, method="nearest").fillna(100).values
    plots["agb"] = np.maximum(mapped + (plots.agb - 100) / 2, 1)
    plots.to_csv(folder / "plots.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def dossier(inputs: Path) -> Path:
    return gb.write_dossier(
        inputs / "dossier.html",
        inputs / "map.zarr",
        REGIONS,
        inputs / "plots.csv",
        carbon="ipcc 2006",
        deduction="ART TREES 2.0",
        progress=False,
    )


@pytest.fixture
def moved(dossier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of page, script and inputs in another folder."""
    monkeypatch.chdir(tmp_path)  # the script goes to its own folder
    return Path(shutil.copytree(dossier.parent, tmp_path / "copy"))


def run(script: Path) -> Any:
    """Run a script in this process, and return what it exits with."""
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    return ended.value.code


# --- the page ---


def test_the_page_is_one_file_with_all_that_an_auditor_asks(dossier: Path) -> None:
    page = Page(dossier.read_text())
    assert [link for link in page.links if not link.startswith("#")] == []
    assert page.headings == [
        *("Summary", "Totals", "Checks", "Sensitivity", "Design", "Inputs"),
        "Make it again",
    ]
    table = gb.totals(
        dossier.parent / "map.zarr",
        REGIONS,
        dossier.parent / "plots.csv",
        carbon="ipcc 2006",
        deduction="ART TREES 2.0",
        progress=False,
    )
    whole = gb.accounting.combine_regions(table).iloc[0]
    summary = page.text.split("In brackets")[0]
    assert f"{whole['total']:,.0f}" in summary
    assert f"{whole['total_lower']:,.0f} to {whole['total_upper']:,.0f}" in summary
    assert f"{whole['deduction_percent']:.2f} %" in summary
    assert f"verdict {whole['verdict']}".split()[1] in summary
    for row in table.itertuples():
        assert f"{row.carbon:,.0f} ({row.carbon_lower:,.0f}" in page.text
    for check in table.attrs["checks"]:
        assert check["words"] in page.text
    digest = hashlib.sha256((dossier.parent / "plots.csv").read_bytes()).hexdigest()
    assert digest in page.text
    assert "does not say that the totals comply" in summary
    assert "<b>" not in dossier.read_text().split("<style>")[1].split("Totals</h2>")[1]


def test_an_estimate_by_stratum_is_shown(inputs: Path, tmp_path: Path) -> None:
    strata = textured().agb.notnull().astype("uint8") * 0 + 1
    strata[:, SIDE // 2 :] = 2
    strata.rename("stratum").rio.to_raster(tmp_path / "strata.tif")
    given = inputs / "map.zarr", None, inputs / "plots.csv"
    settings = {"strata": tmp_path / "strata.tif", "progress": False}
    page = gb.write_dossier(tmp_path / "d.html", *given, sensitivity=False, **settings)
    shown = Page(page.read_text())
    assert "Strata" in shown.headings
    parts = gb.totals(*given, **settings).attrs["strata"]
    assert len(parts) == 2
    for part in parts:
        assert f"{part['mean']:.2f}" in shown.text
    assert fingerprint_of(str(tmp_path / "strata.tif")).sha256 in shown.text


# --- the script ---


def test_the_script_makes_every_number_again_in_another_folder(
    moved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(moved / "dossier.py") is None
    assert "digit for digit" in capsys.readouterr().out
    text = (moved / "dossier.py").read_text()
    assert str(moved.parent.parent) not in text  # paths are seen from its folder


def test_the_script_stops_at_an_input_that_changed(moved: Path) -> None:
    with (moved / "plots.csv").open("a") as file:
        file.write("500100,4999900,100\n")
    with pytest.raises(ValueError, match=r"plots\.csv changed since the dossier"):
        runpy.run_path(str(moved / "dossier.py"), run_name="__main__")


def test_a_number_that_differs_in_its_last_digit_is_told(
    dossier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the script goes to its own folder
    made = runpy.run_path(str(dossier.with_suffix(".py")))
    numbers = {
        name: value
        for name, value in json.loads(made["NUMBERS"]).items()
        if not name.startswith("sensitivity")
    }
    arguments = made["ARGUMENTS"] | {
        name: str(dossier.parent / made["ARGUMENTS"][name]) for name in ("map", "plots")
    }
    name = f"{ODD}: total"
    right = numbers[name]
    numbers[name] = float(np.nextafter(right, 0))
    wrong = json.dumps(numbers | {"of nothing": 1.5})
    told = make_again(arguments, {}, wrong, sensitivity=False)
    assert told is not None
    assert told.startswith("2 of ")
    assert f"{name}: {numbers[name]!r} in the dossier, {right!r} now" in told
    assert "of nothing: 1.5 in the dossier, None now" in told


def test_arguments_are_written_as_python_reads_them(tmp_path: Path) -> None:
    jump = RootShoot(Factor(0.2, 0.02), Factor(0.3))
    given = {
        "map": tmp_path / "map.tif",
        "regions": {"a": np.array([0.0, 1.5, 2, 3]), "b": f"{tmp_path}/p.gpkg|layer=x"},
        "interval": IntervalRule("auto", -np.inf, 400.0),
        "carbon": {"a": Carbon(below_ground=jump), "b": "ipcc 2006"},
        "model_error": ParameterCovariance(((1.0, 0), (0, 2)), {"a": (1, 2)}),
        "population": {np.int64(1): np.float64(300)},
        "cluster": None,
    }
    page = tmp_path / 'a"""b.html'
    call = Call.of(given)
    (tmp_path / "made.py").write_text(
        script_of(page, call, [], {}, "0.1", sensitivity=False)
    )
    read = runpy.run_path(str(tmp_path / "made.py"))["ARGUMENTS"]
    assert read["map"] == "map.tif"
    assert read["regions"] == {"a": [0.0, 1.5, 2.0, 3.0], "b": "p.gpkg|layername=x"}
    for name in ("interval", "carbon", "model_error"):
        assert read[name] == given[name]
    assert read["population"] == {1: 300.0}
    assert "cluster" not in read


# --- sensitivity ---


@pytest.fixture(scope="module")
def varied(inputs: Path) -> pd.DataFrame:
    files = inputs / "map.zarr", REGIONS, inputs / "plots.csv"
    return gb.accounting.sensitivity(*files, carbon=FACTORS, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choice", "setting", "changed"),
    [
        ("estimator", "plots", {"estimator": "plots"}),
        ("interval", "Student's t", {"interval": "t"}),
        ("unmapped", "mean of its stratum", {"unmapped": "mean of its stratum"}),
        ("applicability", "only inside", {}),
    ],
)
def test_each_choice_is_changed_alone(
    inputs: Path,
    varied: pd.DataFrame,
    choice: str,
    setting: str,
    changed: dict[str, Any],
) -> None:
    of = xr.open_zarr(inputs / "map.zarr", consolidated=False)
    if choice == "applicability":
        of = of.where(of.applicable == 1)
    expected = gb.totals(of, REGIONS, inputs / "plots.csv", progress=False, **changed)
    rows = varied[(varied.choice == choice) & (varied.setting == setting)]
    rows = rows.set_index("region")
    called = varied[(varied.choice == "as called") & (varied.quantity == "total")]
    called = called.set_index("region")
    whole = gb.accounting.combine_regions(expected)
    for region, row in pd.concat([expected, whole]).iterrows():
        assert rows.loc[region, "value"] == row["total"]
        assert rows.loc[region, "upper"] == row["total_upper"]
        difference = row["total"] - called.loc[region, "value"]
        assert rows.loc[region, "difference"] == difference
    assert (rows["difference"] == 0).all() == (choice == "interval")


def test_factors_are_at_the_ends_of_their_intervals(varied: pd.DataFrame) -> None:
    called = varied[varied.choice == "as called"].set_index(["region", "quantity"])
    ends = varied[varied.choice == "carbon fraction"].set_index("region")
    percent = 100 * 1.959964 * 0.01 / 0.47
    found = ends.loc[ODD, "difference_percent"].tolist()
    assert found == pytest.approx([-percent, percent])
    assert ends.loc["east", "difference"].tolist() == [0, 0]  # it has no error
    ratio = varied[varied.choice == "below-ground ratio"]
    ratio = ratio[ratio.region == "east"].set_index("setting")["value"]
    total = called.loc[("east", "total"), "value"]
    assert ratio["0.2 everywhere"] == pytest.approx(0.5 * 1.2 * total)
    assert ratio["0.4 everywhere"] == pytest.approx(0.5 * 1.4 * total)
    ends_of_ratio = 0.5 * total * np.array([1.2, 1.4])
    assert ends_of_ratio[0] < ratio["each pixel decides"] < ends_of_ratio[1]


def test_a_choice_that_cannot_be_changed_says_why(varied: pd.DataFrame) -> None:
    fixed = varied[varied.region == ""].set_index("choice")
    assert fixed["value"].isna().all()
    assert "error is not known" in fixed.loc["below-ground ratio", "note"]
    assert "model_error=" in fixed.loc["model error", "note"]


# --- without plots ---


@pytest.mark.slow
def test_totals_by_residuals_have_a_dossier(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Variogram(0.4, 0.6, 30.0, "exponential")
    errors = ErrorModel((100.0,), (0.0,), (20.0,), ((0.0,),), shared, 30, 900)
    (tmp_path / "errors.json").write_text(json.dumps(errors.to_dict()))
    path = gb.write_dossier(
        tmp_path / "d.html",
        inputs / "map.zarr",
        residuals=tmp_path / "errors.json",
        progress=False,
    )
    text = Page(path.read_text()).text
    assert "model-based" in text
    assert "residuals have one estimator and one interval" in text
    monkeypatch.chdir(tmp_path)
    assert run(path.with_suffix(".py")) is None


# --- files ---


def test_only_a_dossier_and_its_script_are_replaced(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_work(*_: Any, **__: Any) -> None:
        raise AssertionError("totals were computed")

    given = inputs / "map.zarr", None, inputs / "plots.csv"
    path = tmp_path / "d.html"
    for _ in range(2):  # an earlier one is replaced
        gb.write_dossier(path, *given, sensitivity=False, progress=False)
    monkeypatch.setattr("geobiomass.report.dossier.totals_of", no_work)
    for name in ("d.html", "d.py"):
        kept = (tmp_path / name).read_text()
        (tmp_path / name).write_text("print('mine, of geobiomass')")
        with pytest.raises(FileExistsError, match=name):
            gb.write_dossier(path, *given, progress=False)
        assert (tmp_path / name).read_text() == "print('mine, of geobiomass')"
        (tmp_path / name).write_text(kept)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"path": "d.pdf"}, ValueError, "must end with .html, got d.pdf"),
        ({"plots": None}, ValueError, "plots= or residuals=, .* got neither"),
        ({"residuals": "r.csv"}, ValueError, "got plots and residuals"),
        ({"estimator": "all"}, ValueError, "one estimator, got estimator='all'"),
        ({"plots": some_plots()}, TypeError, "plots .* must be a path.*a DataFrame"),
        ({"map": a_map()}, TypeError, "map .* must be a path.*got a Dataset in memory"),
        ({"map": ("a.zarr", "b.zarr")}, TypeError, "one map, got several"),
        ({"plots": "no.csv"}, FileNotFoundError, "nothing at no.csv.*plots="),
        ({"method": "plots"}, TypeError, "did you mean estimator"),
    ],
)
def test_bad_input_is_told_before_the_work(
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"path": "d.html", "map": inputs / "map.zarr"}
    given |= {"plots": inputs / "plots.csv", "progress": False}
    with pytest.raises(error, match=words):
        gb.write_dossier(**{**given, **changed})
    assert os.listdir(tmp_path) == []


def test_a_fingerprint_is_of_all_that_an_input_is(inputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plain.zarr"
    shutil.copytree(inputs / "map.zarr", folder)
    before = fingerprint_of(str(folder))
    assert before.of == FOLDER
    part = next(file for file in folder.rglob("c/*/*"))
    part.write_bytes(part.read_bytes()[:-1])
    assert fingerprint_of(str(folder)).sha256 != before.sha256
    with pytest.raises(ValueError, match=r"plain\.zarr changed"):
        check_fingerprints({str(folder): before.sha256})

    whole = tmp_path / "sealed.zarr"
    shutil.copytree(inputs / "map.zarr", whole)
    gb.cube.seal(whole)
    sealed = fingerprint_of(str(whole))
    assert sealed.of == SEALED
    array = json.loads((whole / "x" / "zarr.json").read_text())
    (whole / "x" / "zarr.json").write_text(json.dumps(array | {"attributes": {"a": 1}}))
    with pytest.raises(CubeError, match="damaged"):
        fingerprint_of(str(whole))

    for ending in ("shp", "dbf"):
        (tmp_path / f"parks.{ending}").write_bytes(b"1")
    parks = fingerprint_of(f"{tmp_path}/parks.shp|layername=parks")
    (tmp_path / "parks.dbf").write_bytes(b"2")
    assert fingerprint_of(f"{tmp_path}/parks.shp").sha256 != parks.sha256


# --- the command ---


def test_the_command_writes_page_and_script(inputs: Path, tmp_path: Path) -> None:
    words = ["dossier", inputs / "map.zarr", "--plots", inputs / "plots.csv"]
    words += ["--out", tmp_path / "d.html", "--no-sensitivity", "--json"]
    words += ["--estimator", "difference"]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["script"] == str(tmp_path / "d.py")
    assert "'estimator': 'difference'" in (tmp_path / "d.py").read_text()


def test_both_commands_have_every_setting_of_totals() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    wanted = set(inspect.signature(gb.totals).parameters)
    wanted -= {"map", "regions", "progress", "column"}
    for name in ("totals", "dossier"):
        assert wanted <= {option.name for option in commands[name].params}, name
