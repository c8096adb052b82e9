"""BioMassters: pixels compared with plain rasterio, and all kinds of broken folders."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from pathlib import Path

import cloudpickle
import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from biomassters_files import (
    MONTHS,
    cut_to,
    read_tiff,
    write_chip,
    write_tables,
    write_tiff,
)
from hypothesis import example, given
from hypothesis import strategies as st
from variants import variants

import geobiomass as gb
from geobiomass.sources.rasters.tiff_header import TiffHeaderError, read_tiff_header


def expected_image(
    root: Path, chip: str, split: str = "train"
) -> npt.NDArray[np.float32]:
    """Read a chip file by file, (month, band, y, x), with plain numpy."""
    months = []
    for month in MONTHS:
        stem = root / f"{split}_features" / chip
        radar, optical = (
            Path(f"{stem}_S1_{month:02d}.tif"),
            Path(f"{stem}_S2_{month:02d}.tif"),
        )
        side = read_tiff(next(stem.parent.glob(f"{chip}_*.tif"))).shape[1:]
        bands = np.full((15, *side), np.nan, np.float32)
        if radar.exists():
            values = read_tiff(radar)
            bands[:4] = np.where(values == -9999, np.float32(np.nan), values)
        if optical.exists():
            values = read_tiff(optical)
            nothing = (values[:10] == 0).all(axis=0)
            unusable = values[10] == 255
            bands[4:14] = np.where(nothing | unusable, np.nan, values[:10])
            bands[14] = np.where(unusable, np.nan, values[10])
        months.append(bands)
    return np.stack(months)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two chips of 8 x 8 pixels, uncompressed, without tables."""
    write_chip(tmp_path, "00aa11bb")
    write_chip(tmp_path, "00cc22dd", optical=range(6, 12))
    return tmp_path


def file_of(
    root: Path, kind: str = "S2", month: int = 7, chip: str = "00aa11bb"
) -> Path:
    if kind == "agbm":
        return root / "train_agbm" / f"{chip}_agbm.tif"
    return root / "train_features" / f"{chip}_{kind}_{month:02d}.tif"


# Real chips -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "side"), [("biomassters", 2, 256), ("biomassters_small", 5, 32)]
)
@pytest.mark.slow
def test_real_chips_are_read_as_plain_rasterio_reads_them(
    data: Path, name: str, count: int, side: int
) -> None:
    cube = gb.from_biomassters(data / name)
    assert dict(cube.sizes) == {
        "chip": count,
        "month": 12,
        "band": 15,
        "y": side,
        "x": side,
    }
    assert cube["chip"].values.tolist() == sorted(cube["chip"].values.tolist())
    for chip in cube["chip"].values:
        one = cube.sel(chip=chip)
        image = one["image"].compute(scheduler="synchronous")
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image, expected_image(data / name, chip))
        label = read_tiff(data / name / "train_agbm" / f"{chip}_agbm.tif")[0]
        np.testing.assert_array_equal(one["agb"], label)


def test_missing_values_of_a_real_chip_are_the_known_ones(data: Path) -> None:
    cube = gb.from_biomassters(data / "biomassters")
    chip = cube["image"].sel(chip="000aa810").compute(scheduler="synchronous")
    seen = chip.notnull().any(("y", "x"))
    assert seen.sel(band="B04").values.tolist() == [False] * 6 + [True] * 6
    descending = seen.sel(band=["VV_desc", "VH_desc"]).values
    assert descending[:2].all()
    assert not descending[2:8].any()
    assert descending[8:].all()
    june = chip.sel(month=6)
    assert float(june.sel(band="B04").isnull().mean()) == pytest.approx(0.998, abs=1e-3)
    assert float(june.sel(band="CLP").isnull().mean()) > 0.99
    whole = cube["image"].sel(chip="0060c0a5")
    assert bool(whole.notnull().any(("y", "x")).all())


def test_real_cube_survives_the_store(data: Path, tmp_path: Path) -> None:
    cube = gb.from_biomassters(data / "biomassters_small")
    gb.write_cube(cube, tmp_path / "chips.zarr", dtype="float32")
    xr.testing.assert_equal(gb.open_cube(tmp_path / "chips.zarr"), cube)


# The cube ---------------------------------------------------------------------


def test_a_cube_describes_its_contents(folder: Path) -> None:
    cube = gb.from_biomassters(str(folder))
    gb.check_cube(cube)
    assert cube["chip"].values.tolist() == ["00aa11bb", "00cc22dd"]
    assert cube["month"].values.tolist() == [9, 10, 11, 12, 1, 2, 3, 4, 5, 6, 7, 8]
    names = "VV_asc VH_asc VV_desc VH_desc B02 B03 B04 B05 B06 B07 B08 B8A B11 B12 CLP"
    assert cube["band"].values.tolist() == names.split()
    assert cube["agb"].attrs["units"] == "Mg/ha"
    assert "dB" in cube["image"].attrs["units"]
    assert cube.attrs["licence"] == "CC-BY-4.0"
    assert cube["image"].chunks == ((1, 1), (12,), (15,), (8,), (8,))
    assert cube["agb"].chunks == ((1, 1), (8,), (8,))
    assert cube["image"].dtype == cube["agb"].dtype == np.float32


@variants("profile", [{}, {"compress": "zstd"}, {"interleave": "pixel"}], quick=1)
def test_synthetic_chips_are_read_exactly(
    tmp_path: Path, profile: dict[str, str]
) -> None:
    write_chip(tmp_path, "a", optical=(0, 2, 11), **profile)
    write_chip(tmp_path, "b", radar=(3, 4), **profile)
    cube = gb.from_biomassters(tmp_path).compute()
    for chip in ("a", "b"):
        np.testing.assert_array_equal(
            cube["image"].sel(chip=chip), expected_image(tmp_path, chip)
        )
    seen = cube["image"].notnull().any(("y", "x"))
    assert seen.sel(chip="a", band="B02").values.nonzero()[0].tolist() == [0, 2, 11]
    assert seen.sel(chip="b", band="VV_asc").values.nonzero()[0].tolist() == [3, 4]


def test_missing_pixels_become_nan_and_zeros_of_radar_stay(folder: Path) -> None:
    radar = np.full((4, 8, 8), -7.5, np.float32)
    radar[2, 1, 1], radar[0, 1, 1] = -9999, 0
    write_tiff(file_of(folder, "S1"), radar)
    optical = np.full((11, 8, 8), 300, np.uint16)
    optical[10] = 20
    optical[10, 0, 0] = 255  # unusable
    optical[:10, 0, 1] = 0  # no data, but a cloud probability
    optical[:9, 0, 2] = 0  # dark, but one band is not
    optical[:, 0, 3] = 0
    write_tiff(file_of(folder, "S2"), optical)
    month = gb.from_biomassters(folder)["image"].sel(chip="00aa11bb", month=4).values
    assert np.isnan(month[2, 1, 1])
    assert month[0, 1, 1] == 0
    assert np.isnan(month[:4]).sum() == 1
    assert np.isnan(month[4:, 0, 0]).all()
    assert np.isnan(month[4:14, 0, 1]).all()
    assert month[14, 0, 1] == 20
    assert month[4:, 0, 2].tolist() == [0] * 9 + [300, 20]
    assert np.isnan(month[4:14, 0, 3]).all()
    assert month[14, 0, 3] == 0
    assert np.isnan(month[4:]).sum() == 11 + 10 + 10


def test_labels_below_zero_or_not_finite_become_nan(folder: Path) -> None:
    biomass = np.full((1, 8, 8), 12_900, np.float32)
    biomass[0, 0, :5] = [-1, np.nan, np.inf, 0, -np.inf]
    write_tiff(file_of(folder, "agbm"), biomass)
    agb = gb.from_biomassters(folder)["agb"].sel(chip="00aa11bb").values
    assert np.isnan(agb[0]).tolist() == [True, True, True, False, True] + [False] * 3
    assert agb[0, 3] == 0
    assert (agb[1:] == 12_900).all()


def test_test_split_has_no_labels(folder: Path) -> None:
    write_chip(folder, "ff00ff00", split="test", label=False)
    cube = gb.from_biomassters(folder, "test")
    assert "agb" not in cube
    assert cube["chip"].values.tolist() == ["ff00ff00"]
    expected = expected_image(folder, "ff00ff00", "test")
    np.testing.assert_array_equal(cube["image"][0], expected)


def test_labels_of_the_test_split_are_used_if_they_exist(tmp_path: Path) -> None:
    write_chip(tmp_path, "ff00ff00", split="test")
    label = read_tiff(tmp_path / "test_agbm" / "ff00ff00_agbm.tif")
    np.testing.assert_array_equal(gb.from_biomassters(tmp_path, "test")["agb"], label)


# Lazy -------------------------------------------------------------------------


def test_nothing_is_read_before_it_is_computed(folder: Path) -> None:
    cube = gb.from_biomassters(folder)
    expected = expected_image(folder, "00aa11bb")
    for path in (folder / "train_features").glob("00cc22dd_*"):
        path.unlink()
    shutil.rmtree(folder / "train_agbm")
    np.testing.assert_array_equal(cube["image"].sel(chip="00aa11bb"), expected)
    with pytest.raises(
        gb.CubeError, match=r"Sentinel-1 of chip 00cc22dd, .* 9, .*S1_00.tif"
    ):
        cube["image"].sel(chip="00cc22dd").compute()
    with pytest.raises(
        gb.CubeError, match=r"label of chip 00aa11bb .*00aa11bb_agbm.tif"
    ):
        cube["agb"].sel(chip="00aa11bb").compute()


def test_a_file_cut_after_opening_is_named(folder: Path) -> None:
    cube = gb.from_biomassters(folder)["image"].sel(chip="00aa11bb")
    path = file_of(folder, "S2", 9)
    message = f"Sentinel-2 of chip 00aa11bb, calendar month 6, cannot be read: {path}"
    with (
        cut_to(path, path.stat().st_size - 1),
        pytest.raises(gb.CubeError, match=re.escape(message)),
    ):
        cube.compute()
    assert cube.compute().notnull().all()


@pytest.mark.parametrize("option", ["GTIFF_DIRECT_IO", "GTIFF_IGNORE_READ_ERRORS"])
@pytest.mark.slow
def test_options_of_gdal_do_not_hide_a_cut(folder: Path, option: str) -> None:
    import rasterio

    cube = gb.from_biomassters(folder)["image"].sel(chip="00aa11bb")
    path = file_of(folder, "S1")
    with (
        cut_to(path, path.stat().st_size - 1),
        rasterio.Env(**{option: "YES"}),
        pytest.raises(gb.CubeError, match="cannot be read"),
    ):
        cube.compute(scheduler="synchronous")


def test_a_file_replaced_after_opening_is_named(folder: Path) -> None:
    cube = gb.from_biomassters(folder)["image"].sel(chip="00aa11bb")
    write_tiff(file_of(folder, "S1"), np.zeros((3, 8, 8), np.float32))
    message = (
        r"Sentinel-1 .* month 4, .* \(4, 8, 8, 'float32'\), got \(3, 8, 8, 'float32'\)"
    )
    with pytest.raises(gb.CubeError, match=message):
        cube.compute()


def test_another_type_in_the_same_bytes_is_named_when_read(folder: Path) -> None:
    write_tiff(file_of(folder, "S2", 8), np.full((11, 8, 8), -1, np.int16))
    cube = gb.from_biomassters(folder)["image"].sel(chip="00aa11bb")
    with pytest.raises(gb.CubeError, match=r"Sentinel-2 .* month 5, .*got .*'int16'"):
        cube.compute()


@pytest.mark.slow
def test_a_cube_can_be_pickled_to_other_processes(folder: Path) -> None:
    cube = gb.from_biomassters(folder)
    again = cloudpickle.loads(cloudpickle.dumps(cube))
    elsewhere = again.compute(scheduler="processes", num_workers=1)
    xr.testing.assert_identical(elsewhere, cube.compute())


def test_a_task_contains_its_own_chip_only(folder: Path) -> None:
    cube = gb.from_biomassters(folder)
    graph = dict(cube["image"].data.dask)
    first = next(task for key, task in graph.items() if key[1] == 0)
    carried = cloudpickle.dumps(first)
    assert b"00aa11bb" in carried
    assert b"00cc22dd" not in carried
    assert len(carried) < 1000


def test_threads_read_the_same_and_leave_no_file_open(folder: Path) -> None:
    cube = gb.from_biomassters(folder)
    one = cube.compute(scheduler="synchronous")
    for _ in range(5):
        xr.testing.assert_identical(
            cube.compute(scheduler="threads", num_workers=4), one
        )
    if os.path.isdir("/proc/self/fd"):
        links = [
            os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
        ]
        assert not [link for link in links if link.startswith(str(folder))]


# Tables -----------------------------------------------------------------------


@pytest.mark.parametrize("month_names", [True, False])
@pytest.mark.slow
def test_tables_and_file_names_give_the_same_cube(
    folder: Path, month_names: bool
) -> None:
    without = gb.from_biomassters(folder).compute()
    write_tables(folder, month_names=month_names)
    xr.testing.assert_identical(gb.from_biomassters(folder).compute(), without)


def test_chips_that_were_not_downloaded_are_left_out(folder: Path) -> None:
    write_tables(folder)
    for path in folder.glob("*/00aa11bb_*"):
        path.unlink()
    assert gb.from_biomassters(folder)["chip"].values.tolist() == ["00cc22dd"]


def test_chips_of_other_splits_and_unlisted_files_are_left_out(folder: Path) -> None:
    write_tables(folder)
    table = folder / "features_metadata.csv"
    lines = table.read_text().splitlines()
    lines = [
        line.replace(",train,", ",test,") if "00aa11bb" in line else line
        for line in lines
    ]
    table.write_text("\n".join(lines))
    write_chip(folder, "unlisted")
    assert gb.from_biomassters(folder)["chip"].values.tolist() == ["00cc22dd"]


def test_numeric_ids_are_kept_as_they_are(tmp_path: Path) -> None:
    for chip in ("00012345", "1e50"):
        write_chip(tmp_path, chip, radar=(0,), optical=())
    write_tables(tmp_path)
    assert gb.from_biomassters(tmp_path)["chip"].values.tolist() == ["00012345", "1e50"]


def test_a_listed_file_that_is_missing_is_named(folder: Path) -> None:
    write_tables(folder)
    file_of(folder).unlink()
    with pytest.raises(
        gb.CubeError, match=r"has 1 problem.*00aa11bb_S2_07.tif is missing"
    ):
        gb.from_biomassters(folder)


@variants("kind", ["S1", "S2", "agbm"], quick=1)
def test_a_size_other_than_the_tables_is_named(folder: Path, kind: str) -> None:
    write_tables(folder)
    path = file_of(folder, kind)
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(
        gb.CubeError, match=f"{path.name} has {size + 4} bytes, {size} in .*csv"
    ):
        gb.from_biomassters(folder)


@variants(
    "text",
    ["", "file,split\na.tif,train\n", "filename,size,split\na.tif,big,train\n"],
    quick=1,
)
def test_an_invalid_table_is_an_error(folder: Path, text: str) -> None:
    (folder / "features_metadata.csv").write_text(text)
    with pytest.raises(gb.CubeError, match="must be a CSV table with columns"):
        gb.from_biomassters(folder)


def test_a_table_without_any_existing_file_is_an_error(folder: Path) -> None:
    table = folder / "features_metadata.csv"
    table.write_text("filename,size,split\nother_S1_00.tif,1,train\n")
    with pytest.raises(
        gb.CubeError, match=r"No chips of split 'train'.*1 others listed"
    ):
        gb.from_biomassters(folder)


# Missing folders, and folders with other contents --------------------------------


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(
        gb.CubeError, match="folder that contains train_features/, got no folder"
    ):
        gb.from_biomassters(tmp_path / "nowhere")


def test_a_folder_one_level_too_deep_or_too_high(folder: Path) -> None:
    with pytest.raises(gb.CubeError, match=r"got a folder with .*00aa11bb_S1_00.tif"):
        gb.from_biomassters(folder / "train_features")
    above = folder / "above"
    shutil.copytree(folder / "train_features", above / "data" / "train_features")
    with pytest.raises(gb.CubeError, match=r"got a folder with \['data'\]"):
        gb.from_biomassters(above)


def test_a_folder_without_chips(tmp_path: Path) -> None:
    (tmp_path / "train_features").mkdir()
    (tmp_path / "train_features" / "readme.tif").touch()
    (tmp_path / "train_features" / "00aa11bb_S1_12.tif").touch()
    with pytest.raises(gb.CubeError, match=r"No chips .*named like .*got 0 of them"):
        gb.from_biomassters(tmp_path)


@pytest.mark.slow
def test_labels_must_exist_for_training(folder: Path) -> None:
    shutil.rmtree(folder / "train_agbm")
    with pytest.raises(
        gb.CubeError, match=r"folder that contains train_agbm/, got .*train_features"
    ):
        gb.from_biomassters(folder)


@pytest.mark.parametrize("arguments", [{"split": "validation"}, {"damaged": "ignore"}])
def test_unknown_choices(folder: Path, arguments: dict[str, str]) -> None:
    name, value = next(iter(arguments.items()))
    with pytest.raises(gb.CubeError, match=f"{name} must be .* got '{value}'"):
        gb.from_biomassters(folder, **arguments)


@pytest.mark.parametrize("damaged", ["raise", "skip"])
def test_sizes_in_pixels_must_agree(folder: Path, damaged: str) -> None:
    write_chip(folder, "small", side=4)
    write_tiff(file_of(folder, "agbm"), np.zeros((1, 16, 8), np.float32))
    with pytest.raises(gb.CubeError) as caught:
        gb.from_biomassters(folder, damaged=damaged)
    message = str(caught.value)
    assert "has 2 problems" in message
    assert (
        "00aa11bb_agbm.tif must be 8 x 8 pixels as most images are, got 16 x 8"
        in message
    )
    assert "and 24 more of chip small must be 8 x 8" in message


def test_bands_and_types_must_be_the_competitions(folder: Path) -> None:
    write_tiff(file_of(folder, "S1", 0), np.zeros((2, 8, 8), np.float32))
    write_tiff(file_of(folder, "S2", 1), np.zeros((11, 8, 8), np.float32))
    with pytest.raises(gb.CubeError) as caught:
        gb.from_biomassters(folder)
    message = str(caught.value)
    assert (
        "00aa11bb_S1_00.tif must have 4 bands of float32, got 2 of float32" in message
    )
    assert (
        "00aa11bb_S2_01.tif must have 11 bands of uint16, got 11 of float32" in message
    )
    assert "damaged='skip'" not in message  # that would not help


def test_ten_problems_are_named_and_the_rest_counted(folder: Path) -> None:
    for month in MONTHS:
        file_of(folder, "S1", month).write_bytes(b"")
    file_of(folder, "agbm").unlink()
    with pytest.raises(gb.CubeError, match="has 13 problems") as caught:
        gb.from_biomassters(folder)
    assert str(caught.value).count("tif") == 10
    assert "; and 3 more." in str(caught.value)
    assert "00aa11bb_agbm.tif is missing" in str(caught.value)


# Damage -----------------------------------------------------------------------


@pytest.fixture(scope="module", params=[None, "zstd"])
def chips(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two whole chips, uncompressed and compressed."""
    root = tmp_path_factory.mktemp("chips")
    for chip in ("00aa11bb", "00cc22dd"):
        write_chip(root, chip, compress=request.param)
    return root


@given(
    kind=st.sampled_from(["S1", "S2", "agbm"]), cut=st.floats(0, 1, exclude_max=True)
)
@example(kind="S1", cut=0.0)
@example(kind="S2", cut=0.01)
@example(kind="agbm", cut=0.999999)
@example(kind="S1", cut=0.999999)
def test_a_file_cut_anywhere_is_found_and_named(
    chips: Path, kind: str, cut: float
) -> None:
    path = file_of(chips, kind)
    whole = path.stat().st_size
    left = int(whole * cut)
    with (
        cut_to(path, left),
        pytest.raises(gb.CubeError, match="has 1 problem") as caught,
    ):
        gb.from_biomassters(chips)
    message = str(caught.value)
    assert str(path) in message
    assert f"{left} bytes" in message
    assert (
        f"{whole} in its header" in message or "ends within its TIFF header" in message
    )
    assert "Download damaged files again" in message


def test_a_cut_header_is_reported_with_the_usual_size(folder: Path) -> None:
    path = file_of(folder)
    whole = path.stat().st_size
    message = (
        rf"ends within its TIFF header, 0 bytes \(most files of its kind have {whole}\)"
    )
    with cut_to(path, 0), pytest.raises(gb.CubeError, match=message):
        gb.from_biomassters(folder)


def test_a_compressed_file_cut_to_the_size_of_a_whole_one_is_found(
    tmp_path: Path,
) -> None:
    write_chip(tmp_path, "00aa11bb", compress="zstd")
    with os.scandir(
        tmp_path / "train_features"
    ) as entries:  # the complete file comes first
        listed = [(Path(e), e.stat().st_size) for e in entries if "_S1_" in e.name]
    path, size = next(
        (path, size)
        for (_, size), (path, full) in itertools.combinations(listed, 2)
        if size < full
    )
    message = rf"has 1 problem: \S*{path.name} has {size} bytes"
    with cut_to(path, size), pytest.raises(gb.CubeError, match=message):
        gb.from_biomassters(tmp_path)


def test_a_broken_header_is_not_held_against_files_of_the_same_size(
    folder: Path,
) -> None:
    first = next((folder / "train_features").iterdir())  # in the order of the folder
    first.write_bytes(b"x" * first.stat().st_size)
    message = rf"has 1 problem: \S*{first.name} has no TIFF header"
    with pytest.raises(gb.CubeError, match=message):
        gb.from_biomassters(folder)


def test_a_web_page_is_not_a_tiff(folder: Path) -> None:
    file_of(folder).write_text("<html>403 Forbidden</html>")
    with pytest.raises(gb.CubeError, match=r"S2_07.tif has no TIFF header, 26 bytes"):
        gb.from_biomassters(folder)


def test_skip_takes_damaged_images_as_missing(folder: Path) -> None:
    whole = gb.from_biomassters(folder).compute()
    path = file_of(folder, "S2", 7)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(
        UserWarning, match="1 damaged file, treated as missing: .*S2_07.tif"
    ) as seen:
        cube = gb.from_biomassters(folder, damaged="skip").compute()
    assert seen[0].filename == __file__
    missing = cube["image"].sel(
        chip="00aa11bb", month=4, band=list(whole["band"].values[4:])
    )
    assert missing.isnull().all()
    filled = cube["image"].fillna(whole["image"])
    np.testing.assert_array_equal(filled, whole["image"])
    assert int(cube["image"].isnull().sum() - whole["image"].isnull().sum()) == 11 * 64
    xr.testing.assert_identical(cube["agb"], whole["agb"])


def test_skip_leaves_out_a_chip_without_a_sound_label(folder: Path) -> None:
    file_of(folder, "agbm").write_bytes(b"II*\0")
    with pytest.warns(
        UserWarning, match="Left out because they have no label or no image: 00aa11bb"
    ):
        cube = gb.from_biomassters(folder, damaged="skip")
    assert cube["chip"].values.tolist() == ["00cc22dd"]
    np.testing.assert_array_equal(cube["image"][0], expected_image(folder, "00cc22dd"))


def test_skip_leaves_out_a_chip_without_any_sound_image(folder: Path) -> None:
    for path in (folder / "train_features").glob("00cc22dd*"):
        path.write_bytes(b"")
    with pytest.warns(
        UserWarning, match="has 18 damaged files.*; and 8 more.* 00cc22dd"
    ):
        cube = gb.from_biomassters(folder, damaged="skip")
    assert cube["chip"].values.tolist() == ["00aa11bb"]


def test_skip_of_everything_is_an_error(folder: Path) -> None:
    for path in folder.glob("*/*.tif"):
        path.write_bytes(b"")
    with pytest.raises(
        gb.CubeError,
        match=r"must have at least one undamaged chip, got none: .*ends within",
    ):
        gb.from_biomassters(folder, damaged="skip")


def test_skip_without_damage_warns_of_nothing(folder: Path) -> None:
    xr.testing.assert_identical(
        gb.from_biomassters(folder, damaged="skip").compute(),
        gb.from_biomassters(folder).compute(),
    )


# Headers, compared with GDAL ----------------------------------------------

LAYOUTS = [
    {},
    {"compress": "deflate"},
    {"interleave": "band"},
    {"tiled": True, "blockxsize": 16, "blockysize": 16},
    {"BIGTIFF": "YES"},
    {"ENDIANNESS": "BIG"},
    {"ENDIANNESS": "BIG", "BIGTIFF": "YES", "compress": "lzw"},
    {"blockysize": 1},
]


@pytest.mark.parametrize("profile", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64", "uint8"])
def test_a_header_agrees_with_gdal(
    tmp_path: Path, profile: dict[str, str], dtype: str
) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, np.arange(3 * 40 * 24).reshape(3, 40, 24).astype(dtype), **profile)
    header = read_tiff_header(path)
    assert (header.bands, header.height, header.width, header.dtype) == (
        3,
        40,
        24,
        dtype,
    )
    assert header.compressed == ("compress" in profile)
    assert header.end == path.stat().st_size


def test_a_sparse_file_may_leave_blocks_out(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, np.zeros((11, 64, 64), np.uint16), SPARSE_OK="TRUE")
    assert read_tiff_header(path).end <= path.stat().st_size < 11 * 64 * 64


@given(position=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_damaged_header_is_an_error_or_read_but_never_crashes(
    chips: Path, position: int, byte: int
) -> None:
    whole = file_of(chips, "S1").read_bytes()
    path = chips / "damaged"
    path.write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])
    try:
        header = read_tiff_header(path)
    except TiffHeaderError as error:
        assert "TIFF header" in str(error)  # noqa: PT017 (either outcome is right)
    else:
        assert header.end >= 0
