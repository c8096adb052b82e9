"""A cross-validation on disk: same bits, resumed, refused if damaged."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import make_chips, make_scene
from new_process import NewProcesses, Started
from shapely.geometry import box
from test_evaluation import with_interval
from variants import variants

import geobiomass as gb
import geobiomass.models.fit_members as fitting
from benchmarks.error_fields import residuals as table_of_field
from geobiomass.evaluation.residuals import read_residuals, write_residuals
from geobiomass.inference.mapper import Mapper
from geobiomass.network import AttentionUNet
from geobiomass.tiles import Window

TILES: dict[str, Any] = {"tile": 32, "overlap": 0, "block": 32}
WORDS = ["--recipe", "quick", "--epochs", "1", "--set", "crop=32"]
WORDS += ["--set", "encoder=test_resnet", "--set", "decoder_channels=[16,12,8,8,8]"]
FOLDS = ["--folds", "2", "--block", "32", "--buffer", "2"]


def crossed(cube: xr.Dataset, folds: gb.Folds) -> gb.CrossValidation:
    """Return untrained models that differ."""
    models = []
    for seed in range(folds.count):
        torch.manual_seed(seed)
        network = AttentionUNet(3, "test_resnet", (16, 12, 8, 8, 8))
        models.append(gb.BiomassRegressor(network, ("VV_asc", "B04", "B08"), 3))
    return gb.CrossValidation(cube, gb.Ensemble(models), folds, **TILES)


def with_regions() -> xr.Dataset:
    scene = make_scene(64, 96)
    zones = np.repeat([0, 1, 2, np.nan], [20, 30, 30, 16])[None] * np.ones((64, 1))
    return scene.assign_coords(region=(("y", "x"), zones))


def by_polygons(scene: xr.Dataset) -> gb.Folds:
    left, bottom, right, top = scene.rio.bounds()
    thirds = np.linspace(left, right, 4)
    shapes = [box(a, bottom, b, top) for a, b in pairwise(thirds)]
    owners = gpd.GeoDataFrame(
        {"owner": ["a", "b", "a"]}, geometry=shapes, crs=scene.rio.crs
    )
    return gb.make_folds(scene, 2, owners, column="owner", buffer=2)


def of_flights() -> tuple[xr.Dataset, gb.Folds]:
    chips = make_chips(5)
    chips = chips.assign_coords(
        flight=("chip", list("aabbc")),
        top=("chip", np.array([0, 0, 90, 90, 200])),
        left=("chip", np.array([0, 32, 0, 32, 0])),
    )
    return chips, gb.make_folds(chips, 2, by="flight", buffer=3)


def all_kinds() -> dict[str, tuple[xr.Dataset, gb.Folds]]:
    scene = with_regions()
    return {
        "block": (scene, gb.make_folds(scene, 2, block=32, buffer=4)),
        "region": (scene, gb.make_folds(scene, 3, by="region")),
        "polygon": (scene, by_polygons(scene)),
        "flight": of_flights(),
        "chip": (make_chips(4), gb.make_folds(make_chips(4), 2)),
    }


# --- tables of residuals ---


def a_table() -> pd.DataFrame:
    draw = np.random.default_rng(0)
    error = draw.normal(0, 30, (12, 9))
    table = table_of_field(error, (10.1, 1 / 3), predicted=100 + error / 7)
    table["unit"] = np.resize(["NA", "7", "a, b"], len(table))
    table["lower"] = table["predicted"] - draw.random(len(table))
    table.loc[3, "lower"] = np.nan
    return table.assign(fold=np.arange(len(table)) % 3)


def test_a_table_of_residuals_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = a_table()
    write_residuals(table, tmp_path / "r.csv")
    found = read_residuals(tmp_path / "r.csv")
    pd.testing.assert_frame_equal(found, table, check_exact=True)
    assert found.attrs == {"kind": "scene", "pixel": (10.1, 1 / 3)}
    write_residuals(table.iloc[:50], tmp_path / "r.csv")  # replaced, with its checksum
    assert len(read_residuals(tmp_path / "r.csv")) == 50
    # Any reader of CSV passes over the mark that says that there is a JSON file.
    plain = pd.read_csv(tmp_path / "r.csv")
    assert list(plain) == list(table)
    (tmp_path / "r.csv.json").unlink()
    with pytest.raises(ValueError, match=r"r\.csv\.json, which has .* is not there"):
        read_residuals(tmp_path / "r.csv")
    # A table that another program writes, which has no mark, is like any other CSV.
    plain.to_csv(tmp_path / "r.csv", index=False, quoting=csv.QUOTE_NONNUMERIC)
    assert read_residuals(tmp_path / "r.csv").attrs == {}
    plain.to_csv(tmp_path / "r.csv", index=False)
    assert read_residuals(tmp_path / "r.csv").attrs == {}


def test_a_table_that_is_not_replaced_keeps_its_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, table = tmp_path / "r.csv", a_table()
    write_residuals(table, path)
    replace, asked = os.replace, []

    def full(source: Path, target: Path) -> None:
        asked.append(target)
        if Path(target).suffix == ".csv":
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    other = table.iloc[:7].reset_index(drop=True)
    other.attrs = {"kind": "chips", "pixel": (5.0, 5.0), "units": "m", "target": "h"}
    monkeypatch.setattr(os, "replace", full)
    for _ in range(2):  # the facts of the table that is there stay
        with pytest.raises(OSError, match=r"r\.csv cannot .* its disk is full"):
            write_residuals(other, path)
        found = read_residuals(path)
        pd.testing.assert_frame_equal(found, table, check_exact=True)
        assert found.attrs == {"kind": "scene", "pixel": (10.1, 1 / 3)}
    assert len(asked) == 4
    monkeypatch.undo()
    write_residuals(other, path)
    assert read_residuals(path).attrs == other.attrs
    assert sorted(file.name for file in tmp_path.iterdir()) == ["r.csv", "r.csv.json"]


def test_a_table_that_is_not_as_it_was_written_is_refused(tmp_path: Path) -> None:
    path, facts = tmp_path / "r.csv", tmp_path / "r.csv.json"
    table = a_table()

    def damaged(change: Callable[[], object], said: str) -> None:
        write_residuals(table, path)
        change()
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            read_residuals(path)

    whole = table.to_csv(index=False)
    damaged(lambda: path.write_text(whole[:-3]), "its checksum differs")
    damaged(lambda: facts.write_text("{"), "r.csv.json is damaged")
    damaged(lambda: facts.write_text('{"pixel": [1, 1]}'), "r.csv.json is damaged")
    damaged(path.unlink, "There is nothing at .*r.csv")
    newer = {"format": 9, "kind": "scene", "pixel": [1, 1], "sha256": ""}
    damaged(lambda: facts.write_text(json.dumps(newer)), "of format 1, got 9")
    facts.unlink()
    for text, said in (
        ("a,b\n1,2\n", "must have the columns"),
        ("", "got a file that is none"),
        (whole.replace("0.0", "none", 1), "'[a-z]+' of residuals must be numbers"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            read_residuals(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"must hold residuals.csv, got \[\]"):
        read_residuals(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"must end with \.csv"):
        write_residuals(table, tmp_path / "r.json")
    table.attrs = {"kind": "scene"}
    with pytest.raises(ValueError, match=r"must have \['pixel'\]"):
        write_residuals(table, path)


# --- the folder ---


@variants("kind", ["chip", "polygon", "block", "region", "flight"], quick=1)
def test_what_was_saved_is_loaded_to_the_bit(kind: str, tmp_path: Path) -> None:
    cube, folds = all_kinds()[kind]
    cv = crossed(cube, folds)
    if kind == "chip":  # with an interval, of each model its own
        for half, member in zip((10.0, 30.0), cv.model.models, strict=True):
            with_interval(member, half)
    cv.save(tmp_path / "cv", progress=False)
    found = gb.CrossValidation.load(tmp_path / "cv", cube)
    assert found.folds == folds
    assert repr(found.folds) == repr(folds)
    assert found.folds.groups.equals(folds.groups)
    assert found.pixel == cv.pixel
    assert set(found.predictions) == set(cv.predictions)
    for name, layer in cv.predictions.items():
        np.testing.assert_array_equal(found.predictions[name], layer)
    table = cv.residuals()
    assert ("upper" in table) == (kind == "chip")
    for same in (found.residuals(), read_residuals(tmp_path / "cv")):
        pd.testing.assert_frame_equal(same, table, check_exact=True)
        assert same.attrs == table.attrs
    for by in ("biomass", "months", "fold"):
        pd.testing.assert_frame_equal(
            found.evaluate(by), cv.evaluate(by), check_exact=True
        )
    one, other = (each.model.predict(cube, **TILES).agb for each in (found, cv))
    np.testing.assert_array_equal(one, other)


def test_rows_by_fold_are_of_what_each_model_did_not_see(tmp_path: Path) -> None:
    scene = with_regions()
    folds = gb.make_folds(scene, 2, block=32)
    cv = crossed(scene, folds)
    table, errors = cv.evaluate("fold", bootstrap=300), cv.residuals()
    assert list(table.index) == ["all", "0", "1"]
    assert table.index.name == "fold"
    pd.testing.assert_series_equal(
        table.loc["all"], cv.evaluate(bootstrap=300).loc["all"]
    )
    for number, own in errors.groupby("fold"):
        row = table.loc[str(number)]
        off = own["predicted"] - own["observed"]
        assert row["pixels"] == len(own)
        assert row["bias"] == pytest.approx(off.mean(), rel=1e-6)
        assert row["pixel_rmse"] == pytest.approx(np.sqrt((off**2).mean()), rel=1e-6)
        # From drawing its blocks again: never beyond the extreme ones, but for the
        # last bits of sums in another order.
        means = off.groupby(own["unit"]).mean()
        ends = means.min() - 1e-9, means.max() + 1e-9
        assert ends[0] <= row["bias_lower"] < row["bias"] < row["bias_upper"] <= ends[1]


@pytest.mark.slow  # law 4 is quick for a map
def test_an_interrupted_map_goes_on_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = with_regions()
    folds = gb.make_folds(scene, 2, block=32)
    cv = crossed(scene, folds)
    computed: list[Window] = []
    compute = Mapper.compute

    def stopping(self: Mapper, window: Window, chip: int | None = None) -> Any:
        if len(computed) == 4:
            raise KeyboardInterrupt
        computed.append(window)
        return compute(self, window, chip)

    monkeypatch.setattr(Mapper, "compute", stopping)
    with pytest.raises(KeyboardInterrupt):
        cv.save(tmp_path / "cv", progress=False)
    with pytest.raises(
        FileNotFoundError, match="not finished; the same call continues"
    ):
        gb.CrossValidation.load(tmp_path / "cv", scene)
    facts = gb.describe(tmp_path / "cv")
    assert facts["what"] == "cross-validation"
    state = re.search("models are trained, map (.) of 6 blocks", facts["state"])
    assert state is not None
    assert 1 <= int(state[1]) <= 4
    assert facts["what to do"].startswith("repeat the same call")
    written = len(list((tmp_path / "cv" / "predictions.zarr" / "written").glob("*.*")))
    assert written > 1

    def noted(self: Mapper, window: Window, chip: int | None = None) -> Any:
        again.append(window)
        return compute(self, window, chip)

    again: list[Window] = []
    monkeypatch.setattr(Mapper, "compute", noted)
    cv.save(tmp_path / "cv", progress=False)
    assert 0 < len(again) < 6
    found = gb.CrossValidation.load(tmp_path / "cv", scene)
    np.testing.assert_array_equal(found.predictions.agb, cv.predictions.agb)
    before = (tmp_path / "cv" / "residuals.csv").read_bytes()
    again.clear()
    cv.save(tmp_path / "cv", progress=False)  # finished: nothing is mapped again
    assert found.evaluate().loc["all", "pixels"] == 64 * 96
    assert len(found.residuals()) == 64 * 96
    assert not again
    assert (tmp_path / "cv" / "residuals.csv").read_bytes() == before


def test_a_replacement_that_was_interrupted_is_not_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = with_regions()
    one, other = (
        crossed(scene, gb.make_folds(scene, 2, block=32, seed=seed)) for seed in (0, 5)
    )
    one.save(tmp_path / "cv", progress=False)

    def stopping(*given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Mapper, "compute", stopping)
    with pytest.raises(KeyboardInterrupt):
        other.save(tmp_path / "cv", progress=False, overwrite=True)
    assert gb.describe(tmp_path / "cv")["state"].startswith("unfinished")
    with pytest.raises(FileNotFoundError, match="not finished"):
        gb.CrossValidation.load(tmp_path / "cv", scene)


def test_info_says_what_a_finished_folder_holds(run, tmp_path: Path) -> None:
    scene, store, folder = with_regions(), tmp_path / "scene.zarr", tmp_path / "cv"
    gb.write_cube(scene, store)
    cv = crossed(gb.open_cube(store), gb.make_folds(scene, 2, block=32, buffer=4))
    cv.save(folder, cube=store, progress=False)
    facts = gb.describe(folder)
    assert facts["what"] == "cross-validation"
    assert facts["state"] == "finished"
    assert facts["held out"] == "2 folds of 6 blocks of 32 pixels, buffer of 4 pixels"
    assert repr(cv.folds).startswith(facts["held out"])
    assert facts["cube"] == str(store)
    assert facts["models"] == f"2 as one, {folder / 'model'}"
    assert facts["map"] == "predictions.zarr, finished"
    rows, known = facts.to_dict()["errors"]["rows"], cv.evaluate("fold")
    assert list(rows) == list(known.index)
    for name, row in rows.items():
        for column in ("pixels", "average RMSE", "pixel RMSE", "bias"):
            exact = known.loc[name, column.replace(" ", "_").lower()]
            assert row[column] == pytest.approx(exact, rel=1e-12)
    code, out, err = run("info", folder, "--json")
    assert code == 0, err
    assert json.loads(out) == facts.to_dict()
    # Missing files are reported.
    shutil.rmtree(store)
    shutil.rmtree(folder / "model")
    (folder / "residuals.csv").unlink()
    facts = gb.describe(folder)
    assert "scene.zarr, no longer there" in facts["cube"]
    assert facts["models"].startswith("missing")
    assert facts["residuals"].startswith("missing")
    (folder / "validation.json").write_text("{")
    code, _, err = run("info", folder)
    assert (code, "json is damaged" in err) == (2, True)


@pytest.mark.slow
def test_info_says_which_command_goes_on(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, folder = tmp_path / "scene.zarr", tmp_path / "held out"
    gb.write_cube(make_scene(64, 96, months=(7,)), store)
    train = fitting._fit_member

    def stopping(cube: Any, member: Any, *given: Any) -> Any:
        if member.fold == 1:
            raise KeyboardInterrupt
        return train(cube, member, *given)

    monkeypatch.setattr(fitting, "_fit_member", stopping)
    command = ["validate", store, "--folder", folder, *FOLDS, *WORDS]
    code, _, _ = run(*command, "--overwrite")
    assert code != 0
    facts = gb.describe(folder)
    assert facts["state"] == "unfinished, 1 of 2 models begun"
    assert facts["held out"] == "2 folds of 6 blocks of 32 pixels, buffer of 2 pixels"
    assert facts["cube"] == str(store)
    assert facts.to_dict()["epochs"]["rows"] == {"member-1": {"done": 1, "of": 1}}
    said = facts["what to do"].split(": ", 1)[1]
    assert shlex.split(said) == ["geobiomass", *map(str, command)]  # not --overwrite
    assert f"in {Path.cwd()}" in facts["what to do"]
    # Another command, which is refused, is not recorded.
    run(*command, "--seed", "3")
    assert gb.describe(folder)["what to do"] == facts["what to do"]
    code, out, err = run("info", folder, "--json")
    assert code == 0, err
    assert json.loads(out) == facts.to_dict()
    begun = (folder / "begun.json").read_text()
    assert "validate" in begun
    monkeypatch.undo()
    code, _, err = run(*shlex.split(said)[1:])
    assert code == 0, err
    assert gb.describe(folder)["state"] == "finished"
    assert not (folder / "begun.json").exists()
    for text in ("{}", begun.replace("validate", "validatf")):
        (folder / "begun.json").write_text(text)
        with pytest.raises(ValueError, match=r"begun.json is damaged .*delete it"):
            gb.describe(folder)
    (folder / "begun.json").write_text("{}")
    with pytest.raises(ValueError, match=r"begun.json is damaged .*delete it"):
        gb.describe(folder)


@pytest.mark.slow
def test_another_cross_validation_is_not_replaced_unasked(tmp_path: Path) -> None:
    scene = with_regions()
    one, other = (
        crossed(scene, gb.make_folds(scene, 2, block=32, seed=seed)) for seed in (0, 5)
    )
    assert one.folds != other.folds
    one.save(tmp_path / "cv", progress=False)
    with pytest.raises(FileExistsError, match=r"predictions.zarr exists and holds"):
        other.save(tmp_path / "cv", progress=False)
    assert gb.CrossValidation.load(tmp_path / "cv", scene).folds == one.folds
    other.save(tmp_path / "cv", progress=False, overwrite=True)
    assert gb.CrossValidation.load(tmp_path / "cv", scene).folds == other.folds
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match=r"got one with thesis.txt; give another"):
        one.save(tmp_path / "mine", progress=False)
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_what_is_damaged_foreign_or_gone_is_one_clear_sentence(tmp_path: Path) -> None:
    scene = with_regions()
    store = tmp_path / "scene.zarr"
    gb.write_cube(scene, store)
    cv = crossed(gb.open_cube(store), gb.make_folds(scene, 3, by="region"))
    cv.save(tmp_path / "whole", cube=store, progress=False)
    assert gb.CrossValidation.load(tmp_path / "whole").folds == cv.folds

    def broken(change: Callable[[Path], object], said: str, **given: Any) -> None:
        folder = tmp_path / "cv"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", folder)
        change(folder)
        with pytest.raises((ValueError, OSError), match=said):
            gb.CrossValidation.load(folder, **given)

    def rewritten(folder: Path, **facts: Any) -> None:
        path = folder / "validation.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | facts))

    def as_it_was(folder: Path) -> None:
        pass

    cut = {"folds": {"by": "region"}}
    broken(lambda f: (f / "validation.json").write_text("{"), "json is damaged")
    broken(lambda f: (f / "validation.json").write_text("[]"), "json is damaged")
    broken(lambda f: rewritten(f, folds=None), "json is damaged")
    broken(lambda f: rewritten(f, **cut), "that were saved are damaged")
    broken(lambda f: rewritten(f, format=9), "must be of format 1, got 9")
    broken(lambda f: shutil.rmtree(f / "model"), "model/config.json is missing")
    broken(lambda f: shutil.rmtree(f / "predictions.zarr"), "nothing at .*predictions")
    broken(lambda f: rewritten(f, cube="/none.zarr"), "is not at /none.zarr; give it")
    broken(lambda f: rewritten(f, cube=None), "whose path was not recorded; give it")
    other = scene.assign_coords(region=scene.region.where(scene.x > scene.x[5], 1.0))
    broken(as_it_was, "'region' of the cube has changed", cube=other)
    bare = scene.drop_vars("region")
    broken(as_it_was, "must have 'region'", cube=bare)
    part = scene.isel(y=slice(0, 32))
    broken(as_it_was, "must be made of the cube|hold out other", cube=part)
    for foreign in (store, tmp_path / "none", tmp_path / "whole" / "model"):
        with pytest.raises(FileNotFoundError, match=r"without validation\.json"):
            gb.CrossValidation.load(foreign)


@pytest.mark.slow
def test_a_cube_that_has_changed_since_is_noticed(tmp_path: Path) -> None:
    scene, store = with_regions(), tmp_path / "scene.zarr"
    gb.write_cube(scene, store)
    folder = tmp_path / "cv"
    cv = crossed(gb.open_cube(store), gb.make_folds(scene, 2, block=32))
    cv.save(folder, cube=store, progress=False)
    table = cv.evaluate("fold")

    def replaced(cube: xr.Dataset) -> None:
        gb.write_cube(cube, store, overwrite=True)

    # In place, as many labels as before: the folds are of this ground too.
    replaced(scene.assign(agb=scene["agb"] + 7))
    size = r"a scene of 64 x 96 pixels \(\w+\)"
    said = r"scene\.zarr must be as it was when .*cv was made, got other labels, .*: "
    said += f"it was {size} and is {size}"
    with pytest.raises(gb.CubeError, match=said):
        gb.CrossValidation.load(folder)
    with pytest.raises(gb.CubeError, match="The cube that was given must be as it was"):
        gb.CrossValidation.load(folder, scene.assign(agb=scene["agb"] + 7))
    # The cube as it was, in memory: the same one, and what the record says still holds.
    again = gb.CrossValidation.load(folder, scene)
    pd.testing.assert_frame_equal(again.evaluate("fold"), table, check_exact=True)
    rows = gb.describe(folder).to_dict()["errors"]["rows"]
    assert rows["all"]["bias"] == pytest.approx(table.loc["all", "bias"])
    # Other images, the same labels.
    replaced(scene.assign(image=scene["image"] + 3))
    with pytest.warns(UserWarning, match="has other images than .*images on disk was"):
        found = gb.CrossValidation.load(folder)
    pd.testing.assert_frame_equal(found.evaluate("fold"), table, check_exact=True)
    # Written again as it was, it is the same one: warnings are errors here.
    replaced(scene)
    gb.CrossValidation.load(folder)


# --- the command line ---


@pytest.mark.slow
def test_the_command_says_errors_by_fold_and_keeps_all_of_it(
    run, tmp_path: Path
) -> None:
    store, folder = tmp_path / "scene.zarr", tmp_path / "held"
    scene = make_scene(64, 96, months=(7,))
    gb.write_cube(scene, store)
    command = ["validate", store, "--folder", folder, *FOLDS, *WORDS]
    code, out, err = run(*command, "--csv", tmp_path / "scores.csv")
    assert code == 0, err
    assert f"{folder}: 2 folds of 6 blocks of 32 pixels, buffer of 2 pixels" in out
    assert "Fold 2 of 2" in err
    cv = gb.CrossValidation.load(folder)
    settings = {"epochs": 1, "crop": 32, "folder": folder / "checkpoints"}
    settings |= {"encoder": "test_resnet", "decoder_channels": (16, 12, 8, 8, 8)}
    folds = gb.make_folds(scene, 2, block=32, buffer=2)
    expected = gb.cross_validate(
        gb.open_cube(store), "quick", folds, progress=False, **settings
    )
    assert cv.folds == folds
    np.testing.assert_array_equal(cv.predictions.agb, expected.predictions.agb)
    table = expected.evaluate("fold")
    scores = pd.read_csv(tmp_path / "scores.csv", index_col=0)
    np.testing.assert_allclose(scores, table, rtol=1e-12)
    row = table.loc["0"]
    figures = (row["pixel_rmse"], row["pixel_rmse_lower"], row["pixel_rmse_upper"])
    assert "{:.2f} ({:.2f} to {:.2f})".format(*figures) in out
    assert expected.advice in out
    # By biomass, for machines: trained and mapped already.
    weights = folder / "checkpoints" / "member-1" / "last.ckpt"
    before = weights.stat().st_mtime_ns
    code, out, err = run(*command, "--by", "biomass", "--json")
    assert code == 0, err
    facts = json.loads(out)  # nothing else is said there
    assert weights.stat().st_mtime_ns == before
    rows = expected.evaluate()
    assert [each["biomass"] for each in facts["metrics"]] == list(rows.index)
    assert facts["metrics"][0]["bias"] == pytest.approx(rows.loc["all", "bias"])
    assert [each["labelled_pixels"] for each in facts["folds"]] == [3072, 3072]
    assert facts["advice"] == expected.advice
    # Other commands read the files that it keeps.
    predicted = folder / "predictions.zarr"
    # Of the few blocks of a small scene there is an interval if one asks for it.
    given = ("--residuals", folder, "--force", "--json")
    code, out, err = run("totals", predicted, *given)
    assert code == 0, err
    terms: Any = {"progress": False, "force": True}
    whole = gb.totals(predicted, residuals=expected, **terms).iloc[0]
    (row,) = json.loads(out)["totals"]
    assert row["total"] == pytest.approx(whole["total"], rel=1e-9)
    assert row["total_se"] == pytest.approx(whole["total_se"], rel=1e-9)
    page = tmp_path / "report.html"
    options = ("--validation", folder, "--out", page, "--json")
    code, _, err = run("report", folder / "model", store, *options)
    assert code == 0, err
    text = page.read_text()
    assert "Folds: the pixels of a fold are held out together." in text
    bias = expected.evaluate().loc["all", "bias"]
    assert f"{bias:.1f} (" in text


@pytest.mark.slow
def test_the_command_refuses_what_cannot_be(run, tmp_path: Path) -> None:
    store = tmp_path / "scene.zarr"
    gb.write_cube(make_scene(64, 96, months=(7,)), store)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    for words, said in (
        (("--folder", tmp_path / "mine"), "got one with thesis.txt"),
        (("--folder", tmp_path / "v", "--by", "colour"), "--by must be one of"),
        (("--folder", tmp_path / "v", "--confidence", "2"), "confidence must be above"),
        (("--folder", tmp_path / "v", "--folds-by", "pixel"), "is not on offer"),
        (("--folder", tmp_path / "v", "--folds", "1"), "must be 2 or more"),
        (("--folder", tmp_path / "v", "--block", "96"), "ask for fewer folds"),
    ):
        code, _, err = run("validate", store, *words)
        assert (code, said in err) == (2, True), err
    assert not (tmp_path / "v").exists()
    code, _, err = run("validate", store)
    assert (code, "--folder" in err) == (2, True)
    code, _, err = run("report", tmp_path, store, "--validation", tmp_path / "mine")
    assert (code, "without validation.json" in err) == (2, True)
    code, _, err = run("totals", store, "--residuals", tmp_path / "none.csv")
    assert code == 2
    (tmp_path / "no-model.json").write_text("{}")
    other = tmp_path / "no-model.json"
    code, _, err = run("totals", store, "--residuals", other, "--variable", "agb")
    assert (code, "must be an error model" in err) == (2, True)


@pytest.mark.slow
def test_the_command_line_reports_loss_and_gain(run, tmp_path: Path) -> None:
    maps, tables = [], []
    for seed in (0, 1):
        scene = make_scene(64, 96, seed=seed)
        gb.write_cube(scene, tmp_path / f"{seed}.zarr")
        cv = crossed(scene, gb.make_folds(scene, 2, block=16))
        cv.save(tmp_path / f"held-{seed}", progress=False)
        maps.append(tmp_path / f"held-{seed}" / "predictions.zarr")
        tables.append(cv.residuals())
    square = gpd.GeoDataFrame(geometry=[box(*scene.rio.bounds())], crs=scene.rio.crs)
    square.to_file(tmp_path / "square.gpkg")
    terms: Any = {"confidence": 0.9, "progress": False, "force": True}
    expected = gb.change_totals(*maps, square, residuals=tuple(tables), **terms)
    for table, name in zip(tables, "ab", strict=True):
        table.to_csv(tmp_path / f"{name}.csv", index=False)  # says nothing of pixels
    pairs = {"folders": [tmp_path / "held-0", tmp_path / "held-1"]}
    pairs["tables"] = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for name, errors in pairs.items():
        code, out, err = run(
            *("change", *maps, tmp_path / f"{name}.zarr", "--errors", *errors),
            *("--regions", tmp_path / "square.gpkg", "--force", "--json"),
        )
        assert code == 0, err
        rows = {row["change"]: row for row in json.loads(out)["totals"]}
        assert list(rows) == ["net", "loss", "gain"]
        near = 1e-9 if name == "folders" else 0.05
        for part, row in rows.items():
            known = expected.xs(part, level="change").iloc[0]
            assert row["total"] == pytest.approx(known["total"], rel=near)
            assert row["total_upper"] > row["total_lower"]
    code, _, err = run(
        *("change", *maps, tmp_path / "c.zarr"),
        *("--errors", tmp_path / "held-0", tmp_path / "held-0" / "validation.json"),
    )
    assert (code, "must be an error model" in err) == (2, True)


@pytest.mark.slow
def test_a_report_of_chips_has_their_cross_validation(tmp_path: Path) -> None:
    chips, folds = of_flights()
    cv = crossed(chips, folds)
    cv.save(tmp_path / "cv", progress=False)
    cv = gb.CrossValidation.load(tmp_path / "cv", chips)
    out = gb.write_report(
        cv.model, chips, tmp_path / "r.html", validation=cv, progress=False
    )
    text = out.read_text()
    assert "2 folds of 3 groups by &#39;flight&#39;, buffer of 3 pixels" in text
    assert "Size of blocks" not in text  # of scenes


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_and_called_again_it_ends_with_the_same_bits(
    tmp_path: Path, new_process: NewProcesses
) -> None:
    store = tmp_path / "scene.zarr"
    gb.write_cube(make_scene(64, 96, months=(7,)), store)

    def start(folder: Path) -> Started:
        words = ["validate", str(store), "--folder", str(folder), *FOLDS, *WORDS]
        return new_process.start("-m", "geobiomass", *words, "--epochs", "3")

    def finish(process: Started) -> None:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors

    whole, halted = tmp_path / "whole", tmp_path / "halted"
    finish(start(whole))
    running = start(halted)
    while not (halted / "checkpoints" / "member-2" / "last.ckpt").exists():
        assert running.poll() is None, running.communicate(1)
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    assert not (halted / "validation.json").exists()
    first = halted / "checkpoints" / "member-1" / "last.ckpt"
    before = first.stat().st_mtime_ns
    finish(start(halted))
    assert first.stat().st_mtime_ns == before  # the first fold was not trained again
    one, other = (gb.CrossValidation.load(folder) for folder in (whole, halted))
    np.testing.assert_array_equal(one.predictions.agb, other.predictions.agb)
    texts = [(each / "residuals.csv").read_bytes() for each in (whole, halted)]
    assert texts[0] == texts[1]
