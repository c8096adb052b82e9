"""The settings of a map: one list for all methods and commands that make maps."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import numpydoc.docscrape  # type: ignore[import-untyped]
import pytest
from conftest import make_chips, make_scene
from test_maps import BANDS, NETWORK
from typer.main import get_command

import geobiomass as gb
from geobiomass.cli import app
from geobiomass.inference.map_settings import (
    MapOptions,
    MapSettings,
    setting_docs,
    takes_map_settings,
)

NAMES = tuple(field.name for field in fields(MapSettings))
METHODS = ("predict", "predict_to", "predict_chips_to", "plan", "evaluate")
COMMANDS = ("predict", "plan")


@pytest.fixture(scope="module")
def model() -> gb.BiomassRegressor:
    return gb.BiomassRegressor(NETWORK, BANDS, 3)


def call(model: gb.BiomassRegressor, method: str, path: Path, **settings: Any) -> Any:
    cube = make_chips(2, 32) if method == "predict_chips_to" else make_scene(48, 48)
    first = (path,) if method.endswith("_to") else ()
    return getattr(model, method)(*first, cube, **settings)


def test_types_and_documentation_are_complete() -> None:
    assert tuple(MapOptions.__annotations__) == NAMES
    assert get_type_hints(MapOptions) == get_type_hints(MapSettings)
    assert tuple(setting_docs()) == NAMES


@pytest.mark.parametrize("method", [*METHODS, "applicability"])
def test_each_method_has_the_same_settings(
    method: str, model: gb.BiomassRegressor
) -> None:
    parameters = inspect.signature(getattr(model, method)).parameters
    assert set(NAMES) <= set(parameters)
    for name in NAMES:
        assert parameters[name].default == getattr(MapSettings(), name)
    text = numpydoc.docscrape.NumpyDocString(getattr(model, method).__doc__)
    described = {p.name: " ".join(p.desc) for p in text["Parameters"]}
    assert tuple(described) == tuple(parameters)
    for name in NAMES:
        assert described[name] == " ".join(setting_docs()[name][1].split("\n"))


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_the_same_settings(command: str) -> None:
    group: Any = get_command(app)
    options = {option.name: option for option in group.commands[command].params}
    assert set(NAMES) <= set(options)
    for name in set(NAMES) - {"region"}:
        assert options[name].default == getattr(MapSettings(), name)
        first = setting_docs()[name][1].split(". ")[0].replace("\n", " ")
        assert options[name].help.rstrip(".") == first.rstrip(".")


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_setting_is_refused_with_a_sentence(
    method: str, model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    said = rf"^'tiles' is not an argument of {method}; did you mean tile.*\? Its .*"
    with pytest.raises(TypeError, match=said + "overlap, .*memory.*") as caught:
        call(model, method, tmp_path / "map.zarr", tiles=32)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(TypeError, match=rf"^'zzz' is not an .* of {method}, which are"):
        call(model, method, tmp_path / "map.zarr", zzz=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"tile": 0}, "tile must be a whole number above 0, got 0"),
        ({"block": 2.5}, "block must be a whole number above 0, got 2.5"),
        ({"batch_size": 0}, "batch_size must be a whole number above 0, got 0"),
        ({"memory": -1}, "memory must be a whole number above 0, got -1"),
        ({"tile": 32, "overlap": 32}, "overlap must be at least 0 and less than tile"),
        ({"blend": "hard"}, "blend must be 'smooth' or 'crop', got 'hard'"),
        ({"precision": "int8"}, "precision must be 'float32', 'bf16' or 'auto', got"),
    ],
)
def test_a_wrong_value_is_refused_with_a_sentence(
    method: str,
    setting: dict[str, Any],
    said: str,
    model: gb.BiomassRegressor,
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=said):
        call(model, method, tmp_path / "map.zarr", **setting)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_refused(
    command: str, run: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = run(command, "a", "b", "c", "--tiles", 32)
    assert code == 2
    assert "No such option: --tiles" in err
    assert "--tile" in err.replace("--tiles", "")


@pytest.mark.slow
def test_the_first_settings_may_be_given_by_position(
    model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    scene, chips = make_scene(64, 64), make_chips(2, 64)
    named = model.predict(scene, tile=32, overlap=8, block=40, flips=True)
    np.testing.assert_array_equal(
        model.predict(scene, 32, 8, 40, None, True).agb, named.agb
    )
    plan = model.plan(scene, 32, 8, 40)
    assert (plan.tile, plan.overlap, plan.block) == (32, 8, 40)
    model.predict_chips_to(tmp_path / "a", chips, 32, 0, 1, True, progress=False)
    # The same settings by name: the files are those of the same map.
    settings: dict[str, Any] = {"tile": 32, "overlap": 0, "batch_size": 1}
    model.predict_chips_to(
        tmp_path / "a", chips, **settings, flips=True, progress=False
    )
    with pytest.raises(TypeError, match="too many positional arguments"):
        model.predict(scene, 32, 8, 40, None, True, None, False)
    with pytest.raises(TypeError, match="multiple values for argument 'tile'"):
        model.predict(scene, 32, tile=32)
    with pytest.raises(TypeError, match="missing a required argument: 'cube'"):
        model.predict(tile=32)  # type: ignore[call-arg]


def test_a_region_is_evaluated_alone(model: gb.BiomassRegressor) -> None:
    scene = make_scene(64, 64)
    part = scene.isel(y=slice(16, 48), x=slice(0, 32))
    table = model.evaluate(scene, tile=32, overlap=0, region=part.rio.bounds())
    labels = np.isfinite(part.agb) & part.image.notnull().any(["month", "band"])
    assert table.loc["all", "pixels"] == int(labels.sum())
    with pytest.raises(gb.CubeError, match="region needs a scene"):
        model.evaluate(make_chips(2, 32), region=part.rio.bounds())


class Maker:
    """A class with a method of its own that takes the settings of a map."""

    @takes_map_settings()
    def make(self, cube: str, *in_order: int | None, **settings: Any) -> dict[str, Any]:
        """Return the settings.

        Parameters
        ----------
        cube : str
            Anything.
        **settings
            The settings of a map.
        """
        return {"cube": cube, **settings}


def test_the_method_gets_by_name_what_was_given() -> None:
    assert Maker().make("a", 32, turns=True) == {"cube": "a", "tile": 32, "turns": True}
    assert pickle.loads(pickle.dumps(MapSettings(32, 8))) == MapSettings(32, overlap=8)
