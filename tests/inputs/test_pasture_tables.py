"""Tables, folders, lists and dates of photos, and photos of phones."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from variants import variants

import pasture
from pasture.folds import sampling_groups
from pasture.sampling_dates import with_dates
from tests.pasture.pasture_files import (
    SMALL,
    draw_photo,
    draw_photos,
    lengthen,
    one_thread,
)

NAMES = list(pasture.TARGETS)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    draw_photos(folder).to_csv(folder / "train.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "train.csv")


@pytest.fixture(scope="module")
def model(folder: Path) -> pasture.PastureRegressor:
    photos = pasture.read_photos(folder / "train.csv", folder)
    with one_thread():
        return pasture.fit(photos, **{**SMALL, "epochs": 1})


# --- files ---


@pytest.mark.parametrize("layout", ["plain", "long"])
@pytest.mark.parametrize(
    ("end", "options"),
    [
        (".csv", {"sep": ";", "decimal": ","}),
        (".csv", {"encoding": "utf-8-sig"}),
        (".csv", {"encoding": "utf-16"}),
        (".tsv", {"sep": "\t"}),
        (".csv.gz", {}),
    ],
)
def test_tables_of_any_program(folder, table, tmp_path, layout, end, options) -> None:
    rows = table if layout == "plain" else lengthen(table)
    rows.to_csv(tmp_path / f"table{end}", index=False, **options)
    read = pasture.read_photos(tmp_path / f"table{end}", folder)
    expected = pasture.read_photos(rows, folder)
    pd.testing.assert_frame_equal(read, expected)


def test_excel(folder, table, tmp_path) -> None:
    pytest.importorskip("openpyxl")
    days = table.assign(Sampling_Date=pd.to_datetime(table["Sampling_Date"]))
    days.to_excel(tmp_path / "weights.xlsx", index=False)
    read = pasture.read_photos(tmp_path / "weights.xlsx", folder)
    expected = pasture.read_photos(table, folder)
    pd.testing.assert_frame_equal(read, expected, check_dtype=False)


def test_excel_without_its_package_names_it(folder, tmp_path) -> None:
    try:
        import openpyxl  # noqa: F401
    except ImportError:
        (tmp_path / "weights.xlsx").write_bytes(b"PK\3\4")
        with pytest.raises(ImportError, match=r"geobiomass\[tables\]"):
            pasture.read_photos(tmp_path / "weights.xlsx", folder)


def test_the_column_of_files_is_named(folder, table) -> None:
    other = table.rename(columns={"image_path": "Foto"})
    with pytest.raises(pasture.PhotoError, match="rename the column Foto, which has"):
        pasture.read_photos(other, folder)


# --- dates ---

USUAL = [
    *("Date", "date", "DATE", "Sampling_Date", "sampling date", "SamplingDate"),
    *("sampled", "Sampled on", "sample_date", "capture_date", "Datum", "Fecha"),
    *("Date taken", "photo date", "harvest_date", "Aufnahmedatum", "date_prélèvement"),
    *("Cut date", "DateTimeOriginal", "day", "timestamp", "日期"),
]


@variants("name", USUAL, quick=6)
def test_a_date_column_of_any_usual_name_groups_photos(folder, table, name) -> None:
    photos = pasture.read_photos(table.rename(columns={"Sampling_Date": name}), folder)
    expected = pasture.read_photos(table, folder)
    pd.testing.assert_series_equal(photos["Sampling_Date"], expected["Sampling_Date"])
    assert name in photos  # your own column stays
    groups = sampling_groups(photos)
    assert groups.nunique() == 4
    # Also in a table that is not from read_photos.
    own = table.rename(columns={"Sampling_Date": name}).set_index("image_path")
    assert sampling_groups(own).nunique() == 4


def test_times_of_a_day_are_one_group(folder, table) -> None:
    times = [f"2015-09-{4 + n % 4:02d} 1{n % 10}:0{n % 7}:00" for n in range(12)]
    photos = table.assign(Taken=times).drop(columns="Sampling_Date")
    assert sampling_groups(pasture.read_photos(photos, folder)).nunique() == 4
    stamps = photos.assign(Taken=pd.to_datetime(times)).rename(
        columns={"Taken": "Date"}
    )
    assert sampling_groups(stamps).nunique() == 4


def test_year_month_and_day_are_a_date(table) -> None:
    day = pd.to_datetime(table["Sampling_Date"]).dt.day
    parts = table.drop(columns="Sampling_Date").assign(Year=2015, Month=9, Day=day)
    assert with_dates(parts)["Sampling_Date"].dt.day.tolist() == day.tolist()


def test_days_and_months_are_decided_by_column(folder, table) -> None:
    dates = ["05/06/2023", "12/07/2023", "28/08/2023"] * 4
    photos = pasture.read_photos(table.assign(Sampling_Date=dates), folder)
    assert photos["Sampling_Date"].dt.month.tolist() == [6, 7, 8] * 4
    unclear = table.assign(Sampling_Date=["05/06/2023", "12/07/2023"] * 6)
    with pytest.raises(pasture.PhotoError, match="could begin with the day or the mo"):
        pasture.read_photos(unclear, folder)


def test_columns_of_different_dates_are_asked_about(folder, table) -> None:
    two = table.rename(columns={"Sampling_Date": "Date"})
    same = two.assign(captured=two["Date"])
    assert "Sampling_Date" in pasture.read_photos(same, folder)
    other = two.assign(captured="2016-01-01")
    with pytest.raises(pasture.PhotoError, match="got Date, captured, which differ"):
        pasture.read_photos(other, folder)
    # The column of this name decides.
    known = table.assign(Date="2016-01-01")
    assert pasture.read_photos(known, folder)["Sampling_Date"].dt.year.max() == 2015


def test_columns_of_other_things_are_no_dates(folder, table) -> None:
    none = table.drop(columns="Sampling_Date")
    for name, values in (("day", range(12)), ("data", "x"), ("time", "10:30")):
        photos = pasture.read_photos(none.assign(**{name: values}), folder)
        assert "Sampling_Date" not in photos


def test_photos_that_are_groups_of_their_own_are_told(folder, table) -> None:
    photos = pasture.read_photos(table.drop(columns="Sampling_Date"), folder)
    told = "no column has the sampling dates of the 12 photos, and each is its own"
    with pytest.warns(UserWarning, match=told):
        pasture.fit(photos, **{**SMALL, "epochs": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pasture.fit(photos, validation=0, **{**SMALL, "epochs": 1})


@pytest.mark.usefixtures("compiled_folds")
def test_folds_of_photos_without_dates_are_told(folder, table) -> None:
    photos = pasture.read_photos(table.drop(columns="Sampling_Date"), folder)
    with pytest.warns(UserWarning, match="dates of the 12 photos"):
        pasture.balanced_folds(photos, 3, 10, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        groups = pd.Series([f"quadrat {n % 6}" for n in range(12)], photos.index)
        pasture.balanced_folds(photos, 3, 10, groups=groups, progress=False)


# --- folders, lists and paths ---


def test_a_folder_a_list_and_a_path_are_predicted(model, folder, monkeypatch) -> None:
    photos = pasture.read_photos(folder / "train.csv", folder)
    expected = model.predict(photos)
    inside = folder / "train"
    files = sorted(file.name for file in inside.iterdir())
    by_name = expected.set_axis(photos["path"].map(lambda p: Path(p).name)).loc[files]
    for source in (inside, str(inside), [inside / name for name in files]):
        found = model.predict(source)
        assert [Path(name).name for name in found.index] == files
        np.testing.assert_array_equal(found, by_name)
    one = model.predict(str(inside / "ID3.png"))
    np.testing.assert_allclose(one, by_name.loc[["ID3.png"]], rtol=1e-12)
    monkeypatch.chdir(folder)
    np.testing.assert_array_equal(model.predict("train/ID3.png"), one)
    monkeypatch.chdir(inside)
    shutil.copy(folder / "train.csv", folder / "copy.csv")
    relative = pd.read_csv(folder / "train.csv")["image_path"].str.removeprefix(
        "train/"
    )
    np.testing.assert_array_equal(model.predict([*relative]), expected)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("crop", FileNotFoundError, r"No such file or folder: crop .*a table's file"),
        ([3, 4], pasture.PhotoError, "a list of photos must hold paths, got 3"),
        (3, pasture.PhotoError, "a folder, a photo or a list of photos, got a int"),
        ([], pasture.PhotoError, "must have rows"),
        (pd.DataFrame({"a": [1]}), pasture.PhotoError, "read them with"),
        ("no.jpg", pasture.PhotoError, r"missing: .*no\.jpg"),
    ],
)
def test_what_names_no_photos_is_refused(model, source, error, message) -> None:
    with pytest.raises(error, match=message):
        model.predict(source)


def test_folders_without_photos_and_with_more_below(folder, tmp_path) -> None:
    with pytest.raises(pasture.PhotoError, match=r"there are some in .*train \(12\)"):
        pasture.read_photos(folder)
    with pytest.raises(pasture.PhotoError, match="give another folder"):
        pasture.read_photos(tmp_path)
    shutil.copytree(folder / "train", tmp_path / "all" / "more")
    shutil.copy(folder / "train" / "ID1.png", tmp_path / "all" / ".ID1.png")
    shutil.copy(folder / "train" / "ID2.png", tmp_path / "all" / "ID2.PNG")
    (tmp_path / "all" / "notes.txt").write_text("wet")
    with pytest.warns(UserWarning, match="1 photos in .*, and 12 in folders below"):
        photos = pasture.read_photos(tmp_path / "all")
    assert list(photos.index) == ["ID2.PNG"]


# --- targets ---


def test_targets_need_be_said_once(folder, table) -> None:
    names = ("dry_kg_ha", "clover_kg_ha")
    own = table.rename(
        columns={"Dry_Total_g": names[0], "Dry_Clover_g": names[1]}
    ).drop(columns=[name for name in NAMES if name in table and "GDM" in name])
    own = own.drop(columns=["Dry_Green_g", "Dry_Dead_g"])
    photos = pasture.read_photos(own, folder, targets=names)
    model = pasture.fit(photos[photos["State"].notna()], **{**SMALL, "epochs": 1})
    assert model.targets == names
    assert list(model.predict(folder / "train")) == list(names)
    # Others can still be asked for, and who says none is told what there is.
    one = pasture.fit(photos, targets=names[:1], **{**SMALL, "epochs": 1})
    assert one.targets == names[:1]
    lost = pd.DataFrame(photos)
    lost.attrs = {}
    with pytest.raises(pasture.PhotoError, match=r"targets=.*dry_kg_ha, clover_kg_ha"):
        pasture.fit(lost, **SMALL)


# --- shapes ---


def resized(table: pd.DataFrame, folder: Path, size: tuple[int, int]) -> pd.DataFrame:
    """Write the photos at another size, every second one upright."""
    for number in range(len(table)):
        image = Image.open(folder / "train" / f"ID{number}.png").resize(size)
        if number % 2:
            image = image.transpose(Image.Transpose.ROTATE_90)
        image.save(folder / "train" / f"ID{number}.jpg", quality=90)
    paths = table["image_path"].str.replace(".png", ".jpg")
    return table.assign(image_path=paths)


@pytest.mark.slow
def test_photos_of_phones(table, tmp_path) -> None:
    """4032 x 3024, a tenth of it here: the shape of 4 to 3, across and upright."""
    draw_photos(tmp_path)
    phone = resized(table, tmp_path, (403, 302))
    photos = pasture.read_photos(phone, tmp_path)
    small = {
        name: value for name, value in SMALL.items() if name not in ("height", "width")
    }
    with pytest.warns(UserWarning, match="1.33 to 1.*height=160, width=224 instead"):
        model = pasture.fit(photos, **{**small, "epochs": 1})
    assert (model.recipe.height, model.recipe.width) == (160, 224)
    assert model.ratio == pytest.approx(403 / 302)
    assert np.isfinite(model.predict(photos)).all(axis=None)
    # Said sizes are taken without a word.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given = pasture.fit(photos, **{**small, "epochs": 1}, height=64, width=96)
        assert (given.recipe.height, given.recipe.width) == (64, 96)
        given.save(tmp_path / "model")
    # A model of another shape refuses them.
    again = pasture.load(tmp_path / "model")
    draw_photo(np.random.default_rng(1), 100)[0].save(tmp_path / "wide.png")
    with pytest.raises(pasture.PhotoError, match=r"1.33 to 1, got 1 of 1 .*200 x 100"):
        again.predict([tmp_path / "wide.png"])


def test_a_model_refuses_photos_of_another_shape(model, folder, tmp_path) -> None:
    assert model.ratio == 2
    photo, _ = draw_photo(np.random.default_rng(1), 100)
    photo.crop((0, 0, 133, 100)).save(tmp_path / "phone.png")
    photos = pasture.read_photos(pd.DataFrame({"image_path": ["phone.png"]}), tmp_path)
    with pytest.raises(pasture.PhotoError, match="crop them to the quadrat"):
        model.predict(photos)


def test_one_photo_of_another_shape_is_named(folder, table, tmp_path) -> None:
    shutil.copytree(folder / "train", tmp_path / "train")
    Image.new("RGB", (120, 90), (9, 90, 9)).save(tmp_path / "train" / "ID3.png")
    with pytest.raises(pasture.PhotoError, match=r"2.00 to 1: .*ID3.png \(120 x 90\);"):
        pasture.read_photos(table, tmp_path)
