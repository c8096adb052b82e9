"""Cubes whose steps are finer or coarser than months."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pystac
import pytest
import rioxarray  # noqa: F401  (the .rio accessor)
import xarray as xr
from stac_server import BOUNDS, Site

import geobiomass as gb
from geobiomass.sources.stac.period import in_steps, parse_period


def days(steps: Any) -> list[tuple[str, str]]:
    return [(one.start.isoformat(), one.end.isoformat()) for one in steps]


def test_dekads_are_three_a_month() -> None:
    period = in_steps(parse_period("2024-02:2024-03"), "dekad")
    assert period is not None
    assert days(period.steps)[:4] == [
        ("2024-02-01", "2024-02-10"),
        ("2024-02-11", "2024-02-20"),
        ("2024-02-21", "2024-02-29"),
        ("2024-03-01", "2024-03-10"),
    ]
    assert [month for _, month in period.months] == [2, 2, 2, 3, 3, 3]
    assert period.names[1] == "2024-02-11"
    assert (period.start, period.end) == ("2024-02-01", "2024-03-31")


def test_seasons_are_cut_where_the_period_ends() -> None:
    period = in_steps(parse_period("2023-01:2023-12"), "season")
    assert period is not None
    assert days(period.steps) == [
        ("2023-01-01", "2023-02-28"),
        ("2023-03-01", "2023-05-31"),
        ("2023-06-01", "2023-08-31"),
        ("2023-09-01", "2023-11-30"),
        ("2023-12-01", "2023-12-31"),
    ]
    assert [month for _, month in period.months] == [1, 4, 7, 10, 12]


def test_edges_are_dates_of_any_kind() -> None:
    period = in_steps(None, ["2023-04-01", date(2023, 5, 15), np.datetime64("2023-07")])
    assert period is not None
    assert days(period.steps) == [
        ("2023-04-01", "2023-05-14"),
        ("2023-05-15", "2023-06-30"),
    ]
    assert [month for _, month in period.months] == [4, 6]


@pytest.mark.parametrize(
    ("step", "months", "words"),
    [
        ("week", "2023-04", "step must be one of .*'dekad'.* got 'week'"),
        ("dekad", None, "step='dekad' needs months, such as .*, got none"),
        (["2023-04-01"], None, "two dates or more.* got"),
        (["april", "may"], None, "two dates or more.* got"),
        (["2023-05-01", "2023-04-01"], None, "dates that rise"),
        (["2023-04-01", "2024-06-01"], None, "a year at most"),
        (["2023-04-01", "2023-06-01"], "2023-04", "months and year must be left out"),
    ],
)
def test_what_is_no_step_is_one_sentence(
    step: Any, months: str | None, words: str
) -> None:
    with pytest.raises(gb.CubeError, match=words):
        in_steps(None if months is None else parse_period(months), step)


@pytest.fixture
def site(archive_site: Site) -> Site:
    return archive_site


def opened(items: Any, **more: Any) -> xr.Dataset:
    settings = {"bounds": BOUNDS, "crs": 32633, "resolution": 40, "block": 256}
    return gb.from_stac(items, **(settings | {"bands": ["B02", "VV_asc"]} | more))


def computed(cube: xr.Dataset) -> xr.DataArray:
    return cube["image"].compute(scheduler="synchronous")


def test_each_dekad_has_its_own_images(site: Site, tmp_path: Path) -> None:
    cube = opened(site.url, months="2021-12", step="dekad")
    assert cube["month"].values.tolist() == [12, 12, 12]
    starts = cube["start"].values.astype("datetime64[D]").astype(str).tolist()
    assert starts == ["2021-12-01", "2021-12-11", "2021-12-21"]
    image = computed(cube)
    for index, day in enumerate(("03", "13", "23")):
        one = [
            pystac.Item.from_dict(item)
            for item in site.items
            if item["id"].startswith(f"s2-dec-{day}")
        ]
        alone = computed(opened(one, months="2021-12"))
        np.testing.assert_array_equal(image[index].values, alone[0].values)
    gb.write_cube(cube, tmp_path / "cube.zarr")
    stored = gb.open_cube(tmp_path / "cube.zarr")
    np.testing.assert_array_equal(stored["start"].values, cube["start"].values)
    assert "2021-12-11" in cube.attrs["observations"]
    assert cube.attrs["title"].startswith("Dekadal composites")


def test_a_season_is_the_median_of_all_its_images(site: Site) -> None:
    season = opened(site.url, months="2021-12:2022-02", step="season")
    edges = opened(site.url, step=["2021-12-01", "2022-03-01"])
    assert season.sizes["month"] == 1
    assert season["month"].values.tolist() == [1]
    np.testing.assert_array_equal(computed(season).values, computed(edges).values)
    monthly = computed(opened(site.url, months="2021-12:2022-02"))
    known = np.isfinite(monthly.sel(band="B02")).any("month").values
    assert (np.isfinite(computed(season).sel(band="B02")[0]).values == known).all()
    fingerprints = {one.attrs["source_fingerprint"] for one in (season, edges)}
    assert len(fingerprints) == 2


def test_cubes_of_other_months_share_no_task(site: Site) -> None:
    # The same images, first in the second step and then in the first.
    one = opened(site.url, months="2021-11:2021-12")
    other = opened(site.url, months="2021-12:2022-01")
    both = dask.compute(one["image"], other["image"], scheduler="synchronous")
    for image, empty in zip(both, (0, 1), strict=True):
        assert bool(image[empty].isnull().all())
        assert not bool(image[1 - empty].isnull().all())


def test_learners_take_any_number_of_steps() -> None:
    cube = gb.landscape(64, 6, 3).load()
    cube = cube.assign_coords(month=[6, 6, 6, 7, 7, 7])
    kept = np.zeros((64, 64), bool)
    kept.flat[np.random.default_rng(0).choice(64 * 64, 60, replace=False)] = True
    plots = cube.assign(agb=cube["agb"].where(kept))
    model = gb.fit(plots, "pixels", block=16, progress=False)
    made = model.predict(cube)["agb"]
    assert np.isfinite(made).all()
    mean = float(plots["agb"].mean())
    errors = [float(((cube["agb"] - each) ** 2).mean()) for each in (made, mean)]
    assert errors[0] < 0.8 * errors[1]


def test_a_survey_has_a_row_a_step(site: Site) -> None:
    survey = gb.survey_archive(
        site.url, BOUNDS, "2021-12", step="dekad", crs=32633, headers=False
    )
    rows = survey.table.xs("Sentinel-2", level="sensor")
    assert list(rows.index) == ["2021-12-01", "2021-12-11", "2021-12-21"]
    assert rows["dates"].tolist() == [1, 1, 1]


def test_the_command(
    site: Site, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    words = ("ingest", "stac", "--archive", site.url, "--months", "2021-12")
    where = ("--bbox", *map(str, BOUNDS), "--resolution", 40, "--bands", "B02")
    out = tmp_path / "cube.zarr"
    code, said, errors = run(*words, *where, "--step", "dekad", out)
    assert code == 0, errors
    assert "3 dekads" in said
    assert gb.open_cube(out).sizes["month"] == 3


def dated(*days: str) -> xr.Dataset:
    """Return arrays of a band, one for each day."""
    values = np.arange(4.0 * len(days), dtype=np.float32).reshape(-1, 2, 2)
    return xr.Dataset(
        {"B04": (("time", "y", "x"), values)},
        coords={
            "time": np.array(days, "datetime64[ns]"),
            "y": [20.0, 10.0],
            "x": [0.0, 10.0],
        },
    ).rio.write_crs(32633)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("step", "days", "months"),
    [
        ("dekad", ("2023-07-09", "2023-07-11", "2023-07-31"), [7, 7, 7]),
        ("season", ("2022-12-30", "2023-03-01"), [12, 3]),
        ("date", ("2023-07-01", "2023-07-01", "2023-07-02"), [7, 7, 7]),
    ],
)
def test_own_data_may_have_steps_of_other_lengths(
    step: Any, days: tuple[str, ...], months: list[int]
) -> None:
    cube = gb.as_cube(dated(*days), step=step)
    assert cube["month"].values.tolist() == months
    as_text = dated(*days)
    as_text["time"] = np.array(days)
    assert gb.as_cube(as_text, step=step)["month"].values.tolist() == months


@pytest.mark.parametrize(
    ("step", "days", "words"),
    [
        (
            "month",
            ("2023-07-09", "2023-07-11"),
            "one image per month, got 2 dates in 2023-07; .*step='date'",
        ),
        (
            "dekad",
            ("2023-07-21", "2023-07-31"),
            "one image per dekad, got 2 dates in 2023-07-21",
        ),
        (
            "season",
            ("2022-12-30", "2023-01-01"),
            "got 2 dates in the season from 2022-12 on",
        ),
        ("week", ("2023-07-21",), "step must be one of .*'dekad'.*, got 'week'"),
    ],
)
def test_several_dates_of_a_step_are_told(
    step: Any, days: tuple[str, ...], words: str
) -> None:
    with pytest.raises(gb.CubeError, match=words):
        gb.as_cube(dated(*days), step=step)


def test_the_days_of_steps_stay_with_a_cube() -> None:
    cube = gb.landscape(32, 2, 3).assign_coords(
        start=("month", np.array(["2023-07-01", "2023-08-01"], "datetime64[ns]"))
    )
    assert gb.as_cube(cube.drop_attrs())["start"].equals(cube["start"])
    assert (
        gb.as_cube(cube["image"])["start"].values.tolist()
        == cube["start"].values.tolist()
    )
