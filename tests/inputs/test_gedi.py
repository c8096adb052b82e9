"""Footprints of GEDI: granules of both versions, tables of the tools, what is kept."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import geopandas
import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import make_scene
from variants import variants

import geobiomass as gb

# Real ones have 18 digits: no float64 holds them.
FIRST = 19_640_521_100_108_408
COUNT = 8
RENAMED = {
    "l4_quality_flag": "l4a_quality_flag_rel3",
    "l2_quality_flag": "l2a_quality_flag_rel3",
    "algorithm_run_flag": "l2_algrunflag",
}


@pytest.fixture
def cube() -> xr.Dataset:
    return make_scene(40, 56)


def shots(cube: xr.Dataset, count: int = COUNT, first: int = FIRST) -> pd.DataFrame:
    """Return shots along a line in a cube, the last one outside, as version 2 has them.

    All are good, but for: 1 of low quality, 2 degraded, 3 of low sensitivity, 4 without
    biomass, 5 below 0.
    """
    from pyproj import Transformer

    move = Transformer.from_crs(cube.rio.crs, 4326, always_xy=True).transform
    steps = np.arange(count)
    lon, lat = move(
        cube["x"].values[2 + 5 * steps], cube["y"].values[np.minimum(3 + steps, 39)]
    )
    lon[-1] += 1
    good = np.ones(count, np.uint8)
    table = pd.DataFrame(
        {
            "shot_number": np.arange(first, first + count, dtype=np.uint64),
            "lat_lowestmode": lat,
            "lon_lowestmode": lon,
            "agbd": np.float32([80, 95, 310, 12, -9999, -3, 120, 50][:count]),
            "agbd_se": np.float32([3, 4, 9, 3, -9999, 3, 5, 2][:count]),
            "delta_time": 86_400.0 * 500 + 0.5 * steps,
            "l4_quality_flag": good,
            "l2_quality_flag": good,
            "algorithm_run_flag": good,
            "degrade_flag": np.zeros(count, np.int16),
            "sensitivity": np.full(count, 0.97, np.float32),
            "predict_stratum": np.array([b"ENT_Eu"] * count),
            "pft_class": np.full(count, 1, np.uint8),
        }
    )
    table.loc[1, "l4_quality_flag"] = 0
    table.loc[2, "degrade_flag"] = 30
    table.loc[3, "sensitivity"] = 0.9
    return table


def write_granule(
    path: Path, beams: dict[str, pd.DataFrame], version: int = 2, without: str = ""
) -> str:
    """Write shots as a granule of a version has them."""
    with h5py.File(path, "w") as file:
        file.create_group("METADATA")
        file.create_group("ANCILLARY")
        for beam, table in beams.items():
            group = file.create_group(beam)
            for name in table.columns:
                values = table[name].to_numpy()
                if version == 3:
                    if name == "degrade_flag":
                        admitted = np.isin(values, [0, 3]).astype(np.uint8)
                        group["degrade_include_flag"] = admitted
                    name = RENAMED.get(name, name)
                if name == "pft_class":
                    name = "land_cover_data/pft_class"
                if name != without:
                    kind = "S8" if values.dtype.kind == "O" else values.dtype
                    group[name] = values.astype(kind)
    return str(path)


def good_of(cube: xr.Dataset) -> pd.DataFrame:
    """Return the shots that are in the cube and pass all rules of version 2."""
    return shots(cube).iloc[[0, 6]]


def check(found: Any, expected: pd.DataFrame) -> None:
    assert isinstance(found, geopandas.GeoDataFrame)
    assert found.crs == 4326
    assert found["shot_number"].dtype == np.uint64
    assert found["shot_number"].tolist() == expected["shot_number"].tolist()
    np.testing.assert_allclose(found["agbd"], expected["agbd"])
    np.testing.assert_allclose(found["agbd_se"], expected["agbd_se"])
    np.testing.assert_allclose(found.geometry.x, expected["lon_lowestmode"])
    np.testing.assert_allclose(found.geometry.y, expected["lat_lowestmode"])


def test_a_granule_gives_its_good_shots_and_says_what_is_left_out(
    cube: xr.Dataset, tmp_path: Path
) -> None:
    table = shots(cube)
    empty = table.iloc[:0]
    path = write_granule(
        tmp_path / "GEDI04_A_2019_02_V002_01.h5", {"BEAM0101": table, "BEAM0000": empty}
    )
    found = gb.labels.read_gedi(path, cube)
    check(found, good_of(cube))
    assert set(found["beam"]) == {"BEAM0101"}
    assert found["date"].tolist() == [
        pd.Timestamp("2019-05-16"),
        pd.Timestamp("2019-05-16 00:00:03"),
    ]
    assert found["pft_class"].tolist() == [1, 1]
    assert found.attrs["version"] == 2
    assert (found.attrs["shots"], found.attrs["shots_of_files"]) == (7, 8)
    assert found.attrs["left_out"] == [
        {"reason": "no biomass", "shots": 1},
        {"reason": "biomass below 0", "shots": 1},
        {"reason": "fails l4_quality_flag", "shots": 1},
        {"reason": "fails degrade_flag", "shots": 1},
        {"reason": "fails sensitivity", "shots": 1},
    ]
    kept = gb.labels.read_gedi(path, cube, quality="keep")
    assert len(kept) == 5
    with pytest.raises(gb.CubeError, match=r"sensitivity below 0\.99: 7"):
        gb.labels.read_gedi(path, cube, sensitivity=0.99)


def test_what_is_read_labels_a_cube_without_a_word(
    cube: xr.Dataset, tmp_path: Path
) -> None:
    path = write_granule(tmp_path / "a.h5", {"BEAM0101": shots(cube)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = gb.labels.read_gedi(path, cube)
        made = gb.with_labels(cube, found, column="agbd", error="agbd_se", radius=12.5)
    assert made["agb"].attrs["plots"] == 2
    assert made["agb"].attrs["units"] == "Mg/ha"
    labels = made["agb"].values[np.isfinite(made["agb"].values)]
    assert set(labels.tolist()) == {80.0, 120.0}
    assert set(np.unique(made["agb_se"].values[np.isfinite(made["agb"].values)])) == {
        3.0,
        5.0,
    }


def test_version_3_has_other_names_and_rules(cube: xr.Dataset, tmp_path: Path) -> None:
    table = shots(cube)
    table.loc[2, "degrade_flag"] = 3  # a code that version 3 admits
    table.loc[6, "predict_stratum"] = b"None"
    path = write_granule(tmp_path / "V003.h5", {"BEAM1011": table}, version=3)
    found = gb.labels.read_gedi(path, cube)
    # Its flags hold a sensitivity of their own: that of shot 3 is for them to judge.
    check(found, table.iloc[[0, 2, 3]])
    assert found.attrs["version"] == 3
    assert {"reason": "no stratum of the model", "shots": 1} in found.attrs["left_out"]
    assert {"reason": "fails l4a_quality_flag_rel3", "shots": 1} in found.attrs[
        "left_out"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = gb.with_labels(cube, found, column="agbd")
    assert made["agb"].attrs["plots"] == 3


def test_versions_are_not_mixed_and_a_shot_counts_once(
    cube: xr.Dataset, tmp_path: Path
) -> None:
    table = shots(cube)
    two = write_granule(tmp_path / "two.h5", {"BEAM0101": table})
    three = write_granule(tmp_path / "three.h5", {"BEAM0101": table}, version=3)
    with pytest.raises(
        gb.CubeError, match=r"version 2 \(two.h5\) and version 3 \(three.h5\)"
    ):
        gb.labels.read_gedi([two, three], cube)
    again = write_granule(tmp_path / "two-again.h5", {"BEAM0101": table})
    other = shots(cube, first=FIRST + 100)
    more = write_granule(tmp_path / "two-more.h5", {"BEAM0101": other})
    found = gb.labels.read_gedi(str(tmp_path / "two*.h5"), cube, progress=False)
    assert len(found) == 4
    assert {"reason": "the same shot again", "shots": 2} in found.attrs["left_out"]
    assert sorted(set(found["file"])) == ["two-again.h5", "two-more.h5"]
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in (again, more):
        Path(path).rename(folder / Path(path).name)
    (folder / "notes.md").write_text("no granule")
    pd.testing.assert_frame_equal(
        pd.DataFrame(gb.labels.read_gedi(folder, cube, progress=False)[["agbd"]]),
        pd.DataFrame(found[["agbd"]]),
    )


# Tables as ORNL's subsets, GEDI4R, gediDB and others write them.
TOOLS = {
    "ORNL": lambda t: t.assign(BEAM="BEAM0101", filename="GEDI04_A_V002.h5"),
    "GEDI4R": lambda t: t.drop(columns=["delta_time", "predict_stratum"]).assign(
        date="2019-05-16", beam="BEAM0101"
    ),
    "gediDB": lambda t: (
        t.rename(columns={"lat_lowestmode": "latitude", "lon_lowestmode": "longitude"})
        .drop(columns="delta_time")
        .assign(time=pd.Timestamp("2019-05-16"), beam=5)
    ),
}


@variants("suffix", ["csv", "parquet", "gpkg", "geojson"], quick=3)
@pytest.mark.parametrize("tool", TOOLS)
def test_tables_of_the_tools_give_what_the_granule_gives(
    tool: str, suffix: str, cube: xr.Dataset, tmp_path: Path
) -> None:
    table = shots(cube)
    table["predict_stratum"] = "ENT_Eu"
    made: Any = TOOLS[tool](table)
    path = tmp_path / f"shots.{suffix}"
    if suffix == "csv":
        made.to_csv(path, index=False)
    elif suffix == "parquet":
        made.to_parquet(path)
    else:
        # OGR has no unsigned 64 bits: tools write signed ones.
        made["shot_number"] = made["shot_number"].astype(np.int64)
        points = geopandas.points_from_xy(
            table["lon_lowestmode"], table["lat_lowestmode"]
        )
        geopandas.GeoDataFrame(made, geometry=points, crs=4326).to_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = gb.labels.read_gedi(path, cube)
    check(found, good_of(cube))
    assert set(found["beam"]) == {"BEAM0101"}
    assert set(found["date"].dt.date.astype(str)) == {"2019-05-16"}
    assert found.attrs["version"] == 2


def test_shot_numbers_that_lost_their_digits_are_told(
    cube: xr.Dataset, tmp_path: Path
) -> None:
    table = shots(cube)
    table["shot_number"] = table["shot_number"].astype(np.float64)
    table.drop(columns="predict_stratum").to_parquet(tmp_path / "float.parquet")
    with pytest.warns(UserWarning, match="have lost their last digits"):
        gb.labels.read_gedi(tmp_path / "float.parquet", cube)
    # Alike only by what they lost: no shot is taken for another.
    table["shot_number"] = float(FIRST)
    table.drop(columns="predict_stratum").to_parquet(tmp_path / "alike.parquet")
    with pytest.warns(UserWarning, match="have lost their last digits"):
        found = gb.labels.read_gedi(tmp_path / "alike.parquet", cube)
    assert len(found) == 2


def test_shots_without_a_place_are_counted_and_columns_stay(
    cube: xr.Dataset, tmp_path: Path
) -> None:
    table = shots(cube).drop(columns="delta_time")
    table["predict_stratum"] = "ENT_Eu"
    table["agbd_se"] = np.nan
    table.loc[0, "lon_lowestmode"] = np.nan
    table.to_csv(tmp_path / "a.csv", index=False)
    granule = shots(cube)
    granule.loc[0, "lat_lowestmode"] = -9999
    for path in (
        tmp_path / "a.csv",
        write_granule(tmp_path / "a.h5", {"BEAM0101": granule}),
    ):
        found = gb.labels.read_gedi(path, cube)
        assert found["agbd"].tolist() == [120]
        assert found.attrs["left_out"][0] == {"reason": "no place", "shots": 1}
    found = gb.labels.read_gedi(tmp_path / "a.csv", cube)
    assert found["agbd_se"].isna().all()
    assert "date" not in found
    points = geopandas.points_from_xy(table["lon_lowestmode"], table["lat_lowestmode"])
    frame = geopandas.GeoDataFrame(table.assign(geom=points), geometry="geom")
    frame = frame.iloc[1:].set_crs(4326).to_crs(3857)
    frame["shot_number"] = frame["shot_number"].astype(np.int64)
    frame.to_parquet(tmp_path / "geom.parquet")
    found = gb.labels.read_gedi(tmp_path / "geom.parquet", cube)
    assert "geom" not in found
    np.testing.assert_allclose(found.geometry.x, table["lon_lowestmode"].iloc[[6]])


def test_areas_of_any_kind(cube: xr.Dataset, tmp_path: Path) -> None:
    table = shots(cube)
    path = write_granule(tmp_path / "a.h5", {"BEAM0101": table})
    expected = table["shot_number"].iloc[[0, 6]].tolist()
    west, south, east, north = cube.rio.transform_bounds(4326)
    box = geopandas.GeoSeries.from_xy([west, east], [south, north], crs=4326)
    square = geopandas.GeoSeries([box.union_all().envelope], crs=4326)
    square.to_crs(3857).to_file(tmp_path / "area.gpkg")
    degrees = cube[["agb"]].rio.reproject(4326)
    for area in (
        (west, south, east, north),
        tmp_path / "area.gpkg",
        square,
        square.to_crs(3067),
        square.iloc[0].__geo_interface__,
        degrees,
    ):
        found = gb.labels.read_gedi(path, area)
        assert found["shot_number"].tolist() == expected
    # The eighth is outside, and good.
    assert len(gb.labels.read_gedi(path)) == 3
    # Across 180 degrees, where east is below west.
    with pytest.raises(gb.CubeError, match=r"None of 8 shots of .* is in the area"):
        gb.labels.read_gedi(path, (170, -10, -170, 10))
    moved = table.assign(lon_lowestmode=[179.5, -179.5] * 4, lat_lowestmode=0.0)
    far = write_granule(tmp_path / "far.h5", {"BEAM0101": moved})
    assert len(gb.labels.read_gedi(far, (179, -1, -179, 1))) == 3


def broken(path: Path, cube: xr.Dataset) -> dict[str, tuple[Any, str]]:
    """Return files that are not what they should be, and the sentence of each."""
    table = shots(cube)
    whole = write_granule(path / "whole.h5", {"BEAM0101": table})
    (path / "cut.h5").write_bytes(Path(whole).read_bytes()[:3000])
    (path / "text.h5").write_text("no HDF5")
    unknown = table.rename(columns={"l4_quality_flag": "l4_quality_flag_rel9"})
    other = table.drop(columns=["agbd", "agbd_se"])
    short = write_granule(path / "short.h5", {"BEAM0101": table})
    with h5py.File(short, "a") as file:
        del file["BEAM0101/agbd_se"]
        file["BEAM0101/agbd_se"] = np.ones(3)
    with h5py.File(path / "nobeam.h5", "w") as file:
        file.create_group("METADATA")
    table[["lat_lowestmode", "lon_lowestmode"]].to_csv(path / "bare.csv", index=False)
    heights = table[["lat_lowestmode", "lon_lowestmode"]].assign(rh98=20.0)
    heights.to_csv(path / "heights.csv", index=False)
    (path / "folder").mkdir(exist_ok=True)
    with h5py.File(path / "flat.h5", "w") as file:
        file["BEAM0101"] = np.ones(3)
    words = write_granule(path / "words.h5", {"BEAM0101": table}, without="agbd")
    grid = write_granule(path / "grid.h5", {"BEAM0101": table}, without="agbd")
    with h5py.File(words, "a") as file:
        file["BEAM0101/agbd"] = np.array([b"many"] * COUNT)
    with h5py.File(grid, "a") as file:
        file["BEAM0101/agbd"] = np.ones((COUNT, 2))
    return {
        "cut": (path / "cut.h5", "cut, damaged or no HDF5; download it again"),
        "no HDF5": (path / "text.h5", "cut, damaged or no HDF5"),
        "gone": (path / "gone.h5", "there is no such file"),
        "no pattern": (str(path / "x*.h5"), "No file is named as"),
        "another kind": (write_text(path / "a.pdf"), "must be a granule"),
        "none": ([], "must name one file of GEDI or more"),
        "no beam": (path / "nobeam.h5", "must have groups such as BEAM0101"),
        "L2A": (
            write_granule(path / "l2a.h5", {"BEAM0101": other.assign(rh=1.0)}),
            r"is of GEDI L2A \(heights\) and has no agbd",
        ),
        "version": (
            write_granule(path / "new.h5", {"BEAM0101": unknown}),
            "its version is not known",
        ),
        "lacking": (
            write_granule(
                path / "lacking.h5", {"BEAM0101": table}, without="delta_time"
            ),
            "BEAM0101 of the granule .* lacks delta_time",
        ),
        "short": (
            short,
            r"must have 8 values of each variable, got {'agbd_se': \(3,\)}",
        ),
        "no biomass": (path / "bare.csv", "must have a column agbd"),
        "a table of L2A": (path / "heights.csv", r"it is of GEDI L2A \(heights\)"),
        "an empty folder": (path / "folder", "must have granules .* got none"),
        "no group": (path / "flat.h5", "must have groups such as BEAM0101"),
        "text": (words, "must have one number a shot .* got no numbers in agbd"),
        "two axes": (grid, "must have one number a shot .* got agbd of several axes"),
        **{
            product: (
                write_granule(
                    path / f"{name}.h5", {"BEAM0101": other.assign(**{name: 1.0})}
                ),
                f"is of GEDI {product} ",
            )
            for product, name in {
                "L1B": "rxwaveform",
                "L2B": "pai",
                "L4C": "wsci",
            }.items()
        },
    }


def test_what_is_no_granule_is_one_clear_sentence(
    cube: xr.Dataset, tmp_path: Path
) -> None:
    for name, (given, sentence) in broken(tmp_path, cube).items():
        with pytest.raises(gb.CubeError, match=sentence) as caught:
            gb.labels.read_gedi(given, cube)
        assert "\n" not in str(caught.value), name
    whole = tmp_path / "whole.h5"
    for wrong, sentence in {
        (1, 2, 3): "four finite bounds",
        (24, 61, 24, 62): "must be wider than 0 degrees",
        (400_000, 6_900_000, 401_000, 6_901_000): "must be in longitude and latitude",
    }.items():
        with pytest.raises(gb.CubeError, match=sentence):
            gb.labels.read_gedi(whole, wrong)
    with pytest.raises(gb.CubeError, match="got float"):
        gb.labels.read_gedi(whole, 3.5)
    with pytest.raises(gb.CubeError, match="'good' or 'keep', got 'best'"):
        gb.labels.read_gedi(whole, cube, quality="best")  # type: ignore[arg-type]
    with pytest.raises(gb.CubeError, match="from 0 to 1, got 95"):
        gb.labels.read_gedi(whole, cube, sensitivity=95)
    with pytest.raises(gb.CubeError, match="a scene with a reference system"):
        gb.labels.read_gedi(whole, cube.drop_vars("spatial_ref"))


@pytest.mark.slow
def test_a_granule_cut_or_damaged_anywhere_is_one_sentence_or_read(
    cube: xr.Dataset, tmp_path: Path
) -> None:
    whole = Path(write_granule(tmp_path / "whole.h5", {"BEAM0101": shots(cube)}))
    content = whole.read_bytes()
    other = tmp_path / "other.h5"
    for end in np.linspace(0, len(content) - 1, 8).astype(int):
        other.write_bytes(content[:end])
        with pytest.raises(gb.CubeError, match="cut, damaged or no HDF5; download"):
            gb.labels.read_gedi(other, cube)
    draw = np.random.default_rng(0)
    told = []
    for at in draw.integers(0, len(content), 40):
        changed = bytearray(content)
        changed[at : at + 8] = bytes(byte ^ 0xFF for byte in changed[at : at + 8])
        other.write_bytes(bytes(changed))
        try:
            gb.labels.read_gedi(other, cube)
        except gb.CubeError as error:
            told.append(str(error))
    assert told
    assert not [text for text in told if "\n" in text]


def test_the_labels_of_shots_need_no_column(cube: xr.Dataset, tmp_path: Path) -> None:
    path = write_granule(tmp_path / "a.h5", {"BEAM0101": shots(cube)})
    found = gb.labels.read_gedi(path, cube)
    made = gb.with_labels(cube, found)
    assert made["agb"].attrs["column"] == "agbd"
    assert made["agb_se"].attrs["column"] == "agbd_se"
    asked = gb.with_labels(cube, found, column="agbd", error="agbd_se")
    for name in ("agb", "agb_se"):
        np.testing.assert_array_equal(made[name].values, asked[name].values)
    assert "column" not in asked["agb"].attrs
    # Named, it is as before: errors come only where they are asked for.
    assert "agb_se" not in gb.with_labels(cube, found, column="agbd")
    assert gb.with_labels(cube, found, error="agbd")["agb_se"].attrs["column"] == "agbd"
    none = found.assign(agbd_se=np.nan)
    assert "agb_se" not in gb.with_labels(cube, none)
    # Where there is a column agb it is the labels, as in any table.
    own = gb.with_labels(cube, found.assign(agb=7.0))
    assert set(np.unique(own["agb"].values[np.isfinite(own["agb"])])) == {7.0}
    assert "agb_se" not in own
    other = pd.DataFrame(found.drop(columns="geometry"))
    other.attrs = {}
    with pytest.raises(gb.CubeError, match="agbd"):
        gb.with_labels(cube, other)


def write_text(path: Path) -> Path:
    path.write_text("text")
    return path
