"""Statistics of bands: exact, in one pass, in any order of blocks."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import make_chips, make_scene
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import geobiomass as gb
from geobiomass.cube import statistics
from geobiomass.cube.statistics import PERCENTILES, BandTally
from geobiomass.info import describe

BANDS = ("VV", "B04")
STEPS = np.array([0.01, 1], np.float32)[:, None, None]
BLOCK = (2, 3, 4)  # band, y, x


def expected(values: np.ndarray) -> dict[str, float]:
    """The same by numpy, in float64; `values` without those missing."""
    found = {
        "count": values.size,
        "minimum": values.min(),
        "maximum": values.max(),
        "mean": values.mean(),
        "sd": values.std(),
    }
    ordered = np.sort(values)
    for percentile in PERCENTILES:
        # numpy's own quantile misses the rank by one where its product rounds up.
        rank = -(-Fraction(str(percentile)) * values.size // 100)
        found[f"p{percentile:g}"] = ordered[rank - 1]
    return found


@given(
    st.lists(hnp.arrays(np.int16, BLOCK), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
def test_codes_are_counted_exactly_in_any_order(blocks: list, random) -> None:
    tally = BandTally(BANDS, STEPS, -32768)
    for block in blocks:
        tally.add(block)
    table = tally.table()
    every = np.stack(blocks).astype(np.float64)
    for band, step in zip(BANDS, (0.01, 1.0), strict=True):
        values = every[:, BANDS.index(band)].ravel()
        values = values[values != -32768] * step
        row = table.loc[band]
        assert row["missing"] == pytest.approx(1 - values.size / (12 * len(blocks)))
        if values.size == 0:
            assert row["count"] == 0
            assert row.drop(["count", "missing"]).isna().all()
            continue
        for name, value in expected(values).items():
            assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name
    # In another order, in two parts, kept as text in between.
    random.shuffle(blocks)
    parts = [BandTally(BANDS, STEPS, -32768) for _ in range(2)]
    for index, block in enumerate(blocks):
        parts[index % 2].add(block)
    parts[0].merge(parts[1])
    kept = BandTally(BANDS, STEPS, -32768)
    kept.restore(parts[0].histogram, parts[0].state())
    pd.testing.assert_frame_equal(kept.table(), table, check_exact=True)


@given(
    st.lists(
        hnp.arrays(
            np.float32,
            BLOCK,
            elements=st.floats(-1e4, 1e4, width=32) | st.just(np.nan),
        ),
        min_size=1,
        max_size=5,
    ),
    st.randoms(use_true_random=False),
)
def test_floats_are_counted_to_within_their_leading_bits(blocks: list, random) -> None:
    tally = BandTally(BANDS)
    for block in blocks:
        tally.add(block)
    table = tally.table()
    every = np.stack(blocks).astype(np.float64)
    for index, band in enumerate(BANDS):
        values = every[:, index].ravel()
        values = values[np.isfinite(values)]
        row = table.loc[band]
        assert row["count"] == values.size
        if values.size == 0:
            continue
        truth = expected(values)
        for name in ("minimum", "maximum"):
            assert row[name] == truth[name]
        assert row["mean"] == pytest.approx(truth["mean"], rel=1e-9, abs=1e-6)
        assert row["sd"] == pytest.approx(truth["sd"], rel=1e-6, abs=1e-3)
        for percentile in PERCENTILES:
            name = f"p{percentile:g}"
            assert row[name] == pytest.approx(truth[name], rel=0.008, abs=1e-37)
    random.shuffle(blocks)
    parts = [BandTally(BANDS) for _ in range(2)]
    for index, block in enumerate(blocks):
        parts[index % 2].add(block)
    parts[1].merge(parts[0])
    kept = BandTally(BANDS)
    kept.restore(parts[1].histogram, parts[1].state())
    pd.testing.assert_frame_equal(kept.table(), table, check_exact=True)


def test_a_cube_knows_its_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chips = make_chips(5, 40)
    gb.write_cube(chips, tmp_path / "c.zarr")
    cube = gb.open_cube(tmp_path / "c.zarr")
    values = cube.load()["image"]
    from geobiomass.cube.stored_array import StoredArray

    cube = gb.open_cube(tmp_path / "c.zarr")
    with monkeypatch.context() as patch:
        patch.setattr(StoredArray, "read", lambda *args: pytest.fail("reads pixels"))
        table = gb.band_statistics(cube)
        pd.testing.assert_frame_equal(
            gb.band_statistics(cube.sel(band=["B08", "B04"])), table.loc[["B08", "B04"]]
        )
    for band in table.index:
        there = values.sel(band=band).values.astype(np.float64)
        there = there[np.isfinite(there)]
        for name, value in expected(there).items():
            assert table.loc[band, name] == pytest.approx(value, rel=1e-5), name
    # Of a part, or of what was changed, the stored ones would be wrong.
    part = gb.band_statistics(cube.isel(chip=[1]))
    assert part.loc["B04", "count"] == 3 * 40 * 40
    assert part.loc["B04", "maximum"] == float(values[1].sel(band="B04").max())
    changed = gb.band_statistics(cube.assign(image=cube["image"] * 2))
    assert changed.loc["B04", "maximum"] == 2 * table.loc["B04", "maximum"]
    assert "band_statistics" not in cube.attrs
    assert "band_statistics" in xr.open_zarr(tmp_path / "c.zarr").attrs


def test_info_says_what_is_missing_and_what_is_there(tmp_path: Path) -> None:
    scene = make_scene(64, 64)
    scene["image"][2] = np.nan
    scene["image"][0, 1, :16] = np.nan
    gb.write_cube(scene, tmp_path / "c.zarr")
    facts = describe(tmp_path / "c.zarr")
    lines = {
        line.split()[0]: line.split()[1:]
        for line in facts["values present"].splitlines()
        if line.strip()
    }
    assert lines["VV_asc"] == ["100", "100", "0"]
    assert lines["B04"] == ["75", "100", "0"]
    table = gb.band_statistics(gb.open_cube(tmp_path / "c.zarr"))
    assert f"{table.loc['B08', 'maximum']:.0f}" in facts["value ranges"]


def test_sums_of_very_many_codes_are_exact_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tally = BandTally(BANDS, STEPS, -32768)
    tally.add(np.random.default_rng(0).integers(-32767, 32767, BLOCK, dtype=np.int16))
    before = tally.table()
    monkeypatch.setattr(statistics, "_EXACT", 0)  # Python's whole numbers from here on
    pd.testing.assert_frame_equal(before, tally.table(), check_exact=True)
    # 2**34 values of -32768: their sum of squares is 2**64.
    tally = BandTally(["one"], np.float32([1]))
    monkeypatch.undo()
    tally.histogram[0, 0] = tally.seen = 2**34
    row = tally.table().loc["one"]
    assert (row["mean"], row["sd"]) == (-32768, 0)
