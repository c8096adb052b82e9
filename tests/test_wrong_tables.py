"""Tables of other content: one sentence with what was expected, in every function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import make_scene

import geobiomass as gb
from geobiomass.accounting.change import change_residuals, error_correlation
from geobiomass.accounting.error_model import fit_error_model
from geobiomass.evaluation.residuals import write_residuals
from geobiomass.statistics.variogram import fit_variogram, suggest_block


def sound() -> pd.DataFrame:
    draw = np.random.default_rng(0)
    count = 400
    table = pd.DataFrame(
        {
            "observed": draw.gamma(2, 40, count),
            "predicted": draw.gamma(2, 40, count),
            "y": 10.0 * (np.arange(count) // 20),
            "x": 10.0 * (np.arange(count) % 20),
            "unit": [f"block {index // 100}" for index in range(count)],
        }
    )
    table.attrs = {"kind": "scene", "pixel": (10.0, 10.0)}
    return table


def wrong_tables() -> dict[str, tuple[Any, str]]:
    """Return what is no table of residuals, and what the sentence has to say."""
    table = sound()
    words = table.assign(observed="tall")
    return {
        "no unit": (table.drop(columns="unit"), "unit"),
        "no prediction": (table.drop(columns="predicted"), "predicted"),
        "other": (pd.DataFrame({"a": [1, 2]}), "must have"),
        "empty": (pd.DataFrame(), "must have"),
        "words": (words, "must be numbers, got .*tall"),
        "twice": (pd.concat([table, table[["y"]]], axis=1), "one column 'y'"),
    }


def test_every_function_says_what_a_table_lacks(tmp_path: Any) -> None:
    map_ = make_scene(16, 16)["agb"].to_dataset(name="agb")
    other = map_ + 1
    other["agb"].attrs = map_["agb"].attrs
    good = sound()
    calls: dict[str, Callable[[Any], object]] = {
        "totals": lambda t: gb.totals(map_, residuals=t, progress=False),
        "change": lambda t: gb.change(map_, other, residuals=(good, t)),
        "change_totals": lambda t: gb.change_totals(
            map_, other, None, residuals=(t, good), progress=False
        ),
        "change_residuals": lambda t: change_residuals(good, t),
        "error_correlation": lambda t: error_correlation(t, good),
        "fit_error_model": fit_error_model,
        "fit_variogram": fit_variogram,
        "suggest_block": suggest_block,
        "folds": lambda t: gb.make_folds(make_scene(), block="auto", residuals=t),
    }
    for what, (table, words) in wrong_tables().items():
        table.attrs = good.attrs
        for name, call in calls.items():
            with pytest.raises(ValueError, match=words) as caught:
                call(table)
            assert "\n" not in str(caught.value), (what, name)
    sizeless = good.copy()
    for size in (None, 3, ("a", "b"), (0, 10), (np.nan, 1)):
        sizeless.attrs = {"kind": "scene"} | ({} if size is None else {"pixel": size})
        for name in ("change_residuals", "error_correlation", "fit_error_model"):
            with pytest.raises(ValueError, match=r"attrs\['pixel'\] = \(metres down"):
                calls[name](sizeless)
    with pytest.raises(ValueError, match="without"):
        write_residuals(good.drop(columns="unit"), tmp_path / "residuals.csv")
    # The sound table is none of these.
    assert fit_error_model(good).residuals == 400


def test_plots_say_what_a_table_lacks() -> None:
    scores = pd.DataFrame({"pixels": [3]}, index=["all"])
    for call in (gb.plots.error_by_bin, gb.plots.reliability):
        with pytest.raises(ValueError, match=r"without .*pixel_rmse"):
            call(scores)
    with pytest.raises(ValueError, match=r"model\.history"):
        gb.plots.history(pd.DataFrame({"train_loss": [1.0]}))
    for table in (pd.DataFrame({"observed": [1.0]}), 3, None):
        with pytest.raises(ValueError, match="table must"):
            gb.plots.calibration(table, interval=0.9)  # type: ignore[arg-type]
    ends = {name: xr.DataArray([[1.0]]) for name in ("agb", "agb_lower")}
    with pytest.raises(ValueError, match="agb_upper"):
        gb.plots.calibration(xr.Dataset(ends), np.ones((1, 1)), interval=0.9)
