import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pasture_files import draw_photos, lengthen
from PIL import Image

import pasture
from geobiomass.training.sharding import BatchSource
from pasture.loader import PhotoLoader, measure_photo, open_photo


@pytest.fixture
def table(tmp_path):
    return draw_photos(tmp_path)


@pytest.fixture
def photos(table, tmp_path):
    return pasture.read_photos(table, tmp_path)


def loader_of(photos: pd.DataFrame, **settings) -> PhotoLoader:
    grams = photos[list(pasture.TARGETS)].to_numpy(np.float32)
    settings = {"height": 32, "width": 64, "batch_size": 4} | settings
    return PhotoLoader(tuple(photos["path"]), grams, **settings)


# --- tables ---


def test_both_layouts_are_read_as_the_same_table(table, tmp_path):
    plain = pasture.read_photos(table, tmp_path)
    shuffled = lengthen(table).sample(frac=1, random_state=0)
    shuffled.to_csv(tmp_path / "train.csv", index=False)
    read = pasture.read_photos(tmp_path / "train.csv", tmp_path)
    assert sorted(read.index) == sorted(f"ID{number}" for number in range(12))
    read = read.set_index("path").loc[plain["path"]]
    pd.testing.assert_frame_equal(read, plain.set_index("path"), check_exact=False)
    assert list(plain.index) == list(table["image_path"])
    assert list(plain.columns[-5:]) == list(pasture.TARGETS)


def test_each_photo_has_one_row_with_its_other_columns(table, tmp_path):
    photos = pasture.read_photos(lengthen(table), tmp_path)
    first = photos.loc["ID0"]
    assert first["path"] == str(tmp_path / "train" / "ID0.png")
    assert first["Sampling_Date"] == pd.Timestamp(2015, 9, 4)
    assert first["State"] == "Tas"
    np.testing.assert_allclose(
        first[list(pasture.TARGETS)].astype(float),
        table.loc[0, list(pasture.TARGETS)].astype(float),
    )


def test_a_test_table_has_no_grams(table, tmp_path):
    test = lengthen(table)[["sample_id", "image_path", "target_name"]]
    photos = pasture.read_photos(test, tmp_path)
    assert list(photos.columns) == ["path"]
    assert len(photos) == 12


def test_a_plain_table_may_have_some_targets(table, tmp_path):
    photos = pasture.read_photos(table[["image_path", "GDM_g"]], tmp_path)
    assert list(photos.columns) == ["path", "GDM_g"]


def test_other_targets_are_read(table, tmp_path):
    mine = table[["image_path"]].assign(fresh_kg=np.arange(12) / 10, paddock="north")
    photos = pasture.read_photos(mine, tmp_path, targets=("fresh_kg",))
    assert list(photos.columns) == ["path", "paddock", "fresh_kg"]
    mine.loc[3, "fresh_kg"] = -0.5
    with pytest.raises(pasture.PhotoError, match=r"negative: .*ID3\.png fresh_kg"):
        pasture.read_photos(mine, tmp_path, targets=("fresh_kg",))
    long = lengthen(table).replace({"target_name": {"GDM_g": "GDM"}})
    names = [*pasture.TARGETS[:3], "GDM", "Dry_Total_g"]
    assert list(pasture.read_photos(long, tmp_path, names).columns[-5:]) == names


@pytest.mark.parametrize("targets", ["GDM_g", (), ("GDM_g", "GDM_g")])
def test_targets_must_be_names(table, tmp_path, targets):
    with pytest.raises(ValueError, match="targets must be names of columns"):
        pasture.read_photos(table, tmp_path, targets)


def test_sums_are_added_to_their_parts(table, tmp_path):
    parts = pasture.read_photos(table.drop(columns=["GDM_g", "Dry_Total_g"]), tmp_path)
    whole = pasture.read_photos(table, tmp_path)
    pd.testing.assert_frame_equal(parts, whole)
    # Sums in the table are kept, and it is told that they are not those of their parts.
    with pytest.warns(UserWarning, match="GDM_g of 12 photos is not the sum of"):
        given = pasture.read_photos(table.assign(GDM_g=1.0), tmp_path)
    assert (given["GDM_g"] == 1).all()


DAY = pd.Timestamp(2015, 9, 14)


@pytest.mark.parametrize(
    "text",
    [
        "2015/9/14",
        "2015-09-14",
        "2015.09.14",
        "20150914",
        20150914,
        "14/9/2015",
        "14.09.2015",
        "9/14/2015",
        "14 Sep 2015",
        "September 14, 2015",
        "14-Sep-2015",
        " 2015-09-14T10:30:00",
        "2015-09-14 10:30:00+10:00",
        DAY + pd.Timedelta("7h"),
        DAY.tz_localize("Australia/Hobart"),
    ],
)
def test_dates_of_any_usual_format_are_read(table, tmp_path, text):
    photos = pasture.read_photos(table.assign(Sampling_Date=text), tmp_path)
    assert (photos["Sampling_Date"] == DAY).all()


def test_the_order_of_day_and_month_is_that_of_all_dates(table, tmp_path):
    for dates, expected in (
        (["3/9/2015", "14/9/2015"], ["2015-09-03", "2015-09-14"]),
        (["9/3/2015", "9/14/2015"], ["2015-09-03", "2015-09-14"]),
        (["2015-9-3", "14 Sep 2015"], ["2015-09-03", "2015-09-14"]),
    ):
        photos = pasture.read_photos(table.assign(Sampling_Date=dates * 6), tmp_path)
        read = photos["Sampling_Date"].dt.strftime("%Y-%m-%d")
        assert read.tolist() == expected * 6
    unclear = table.assign(Sampling_Date="3/9/2015")
    with pytest.raises(pasture.PhotoError, match=r"could begin with the day or"):
        pasture.read_photos(unclear, tmp_path)
    mixed = table.assign(Sampling_Date=["14/9/2015", "9/14/2015"] * 6)
    with pytest.raises(pasture.PhotoError, match=r"mixes orders of day"):
        pasture.read_photos(mixed, tmp_path)


def test_missing_dates_stay_missing(table, tmp_path):
    dates = ["2015/9/4", None] * 6
    photos = pasture.read_photos(table.assign(Sampling_Date=dates), tmp_path)
    assert photos["Sampling_Date"].isna().tolist() == [False, True] * 6


def test_input_is_untouched(table, tmp_path):
    given = lengthen(table)
    before = given.copy(deep=True)
    pasture.read_photos(given, tmp_path)
    pd.testing.assert_frame_equal(given, before)


# --- problems are named ---


def test_all_problems_are_named_at_once(table, tmp_path):
    folder = tmp_path / "train"
    (folder / "ID1.png").unlink()
    content = (folder / "ID2.png").read_bytes()
    (folder / "ID2.png").write_bytes(content[: len(content) // 2])
    Image.new("RGB", (100, 60)).save(folder / "ID3.png")
    (folder / "ID4.png").write_text("no picture")
    table.loc[5, "GDM_g"] = -1.5
    table.loc[6, "Dry_Dead_g"] = np.nan
    table = pd.concat([table, table.iloc[[7]]], ignore_index=True)
    with pytest.raises(pasture.PhotoError) as caught:
        pasture.read_photos(table, tmp_path)
    message = str(caught.value)
    for part in (
        "missing: " + str(folder / "ID1.png"),
        "unreadable: " + str(folder / "ID2.png"),
        str(folder / "ID4.png"),
        f"2.00 to 1: {folder / 'ID3.png'} (100 x 60)",
        "train/ID5.png GDM_g (-1.5)",
        "train/ID6.png Dry_Dead_g (nan)",
        "rows: train/ID7.png;",
    ):
        assert part in message
    for number in (0, 8, 9, 10, 11):
        assert f"ID{number}.png" not in message


def test_many_problems_are_counted(tmp_path):
    names = [f"{number}.jpg" for number in range(50)]
    with pytest.raises(pasture.PhotoError, match=r"19\.jpg and 30 more"):
        pasture.read_photos(pd.DataFrame({"image_path": names}), tmp_path)


def test_the_rows_of_a_long_table_must_agree(table, tmp_path):
    rows = lengthen(table)
    with pytest.raises(pasture.PhotoError, match="given twice: ID3__Dry_Green_g;"):
        pasture.read_photos(pd.concat([rows, rows.iloc[[3]]]), tmp_path)
    with pytest.raises(pasture.PhotoError, match=r"negative: ID3 Dry_Green_g \(nan\)"):
        pasture.read_photos(rows.drop(index=3), tmp_path)
    rows.loc[3, "State"] = "WA"
    with pytest.raises(pasture.PhotoError, match="differ between rows: ID3;"):
        pasture.read_photos(rows, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.rename(columns={"image_path": "file"}), "column image_path"),
        (lambda t: t.iloc[:0], "must have rows"),
        (lambda t: t.assign(image_path=None), "12 of 12 without"),
        (lambda t: t.assign(Dry_Moss_g=1.0), "among Dry_Green_g.*got Dry_Moss_g"),
        (lambda t: t.assign(Sampling_Date="4 Sept"), r"dates such as .*, got '4 Sept'"),
        (
            lambda t: pd.concat(
                [t, t.iloc[:1].assign(image_path="train/../train/ID0.png")]
            ),
            r"listed twice, .*ID0\.png",
        ),
        (lambda t: t.assign(sample_id=["a", *"abcdefghijk"]), "listed twice, .* a;"),
        (lambda t: t.assign(GDM_g="much"), r"ID0\.png GDM_g \(nan\)"),
        (lambda t: t.assign(GDM_g=np.inf), r"ID0\.png GDM_g \(inf\)"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(table, tmp_path, change, message):
    with pytest.raises(pasture.PhotoError, match=message):
        pasture.read_photos(change(table), tmp_path)


def test_unknown_targets_of_a_long_table_are_refused(table, tmp_path):
    rows = lengthen(table).replace({"target_name": {"GDM_g": "GDM"}})
    with pytest.raises(pasture.PhotoError, match=r"got GDM; name your own"):
        pasture.read_photos(rows, tmp_path)


def test_no_table_is_an_error_of_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        pasture.read_photos(tmp_path / "nowhere.csv")


def test_a_photo_is_rotated_by_its_exif_orientation(photos, tmp_path):
    upright = Image.open(photos["path"].iloc[0])
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    note = Image.Exif()
    note[0x0112] = 6  # orientation: shown after a quarter turn clockwise
    turned.save(tmp_path / "turned.png", exif=note)
    assert turned.size == (64, 128)
    read = pasture.read_photos(pd.DataFrame({"image_path": ["turned.png"]}), tmp_path)
    loader = PhotoLoader(tuple(read["path"]), np.zeros((1, 5), np.float32), 64, 128, 1)
    ((image, _),) = loader.epoch(0)
    np.testing.assert_array_equal(image[0].permute(1, 2, 0), np.asarray(upright))


# --- large JPEGs ---


def save_jpeg(path: Path, size: tuple[int, int], **options) -> Image.Image:
    """Write a smooth image, which compression changes little, and return it."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([x, y, 255 - x], 2).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=95, **options)
    return Image.fromarray(pixels)


def test_large_jpegs_are_decoded_at_a_reduced_size(tmp_path):
    whole = save_jpeg(tmp_path / "large.jpg", (2048, 1024))
    path = str(tmp_path / "large.jpg")
    assert open_photo(path).size == (2048, 1024)
    assert open_photo(path, (2048, 1024)).size == (2048, 1024)
    assert open_photo(path, (1024, 512)).size == (2048, 1024)
    assert open_photo(path, (256, 128)).size == (512, 256)
    loader = PhotoLoader((path,), np.zeros((1, 5), np.float32), 128, 256, 1)
    ((image, _),) = loader.epoch(0)
    sized = np.asarray(whole.resize((256, 128), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(image[0].permute(1, 2, 0).numpy() - sized).max() <= 4


def test_a_rotated_jpeg_is_decoded_at_a_reduced_size_too(tmp_path):
    note = Image.Exif()
    note[0x0112] = 6
    save_jpeg(tmp_path / "turned.jpg", (1024, 2048), exif=note)
    path = str(tmp_path / "turned.jpg")
    assert measure_photo(path) == (2048, 1024)
    assert open_photo(path, (512, 128)).size == (1024, 512)


def test_a_truncated_jpeg_is_found(tmp_path):
    save_jpeg(tmp_path / "whole.jpg", (2048, 1024))
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) * 9 // 10])
    with pytest.raises(pasture.PhotoError, match=r"unreadable: .*cut\.jpg"):
        pasture.read_photos(pd.DataFrame({"image_path": ["cut.jpg"]}), tmp_path)


# --- the data loader ---


def test_the_data_loader_is_a_batch_source_of_the_trainer(photos):
    assert isinstance(loader_of(photos), BatchSource)


def test_batches_are_resized_photos_and_their_grams(photos):
    loader = loader_of(photos, shuffle=False)
    batches = list(loader.epoch(0))
    assert [image.shape for image, _ in batches] == [(4, 3, 32, 64)] * 3
    assert all(image.dtype == torch.uint8 for image, _ in batches)
    grams = torch.cat([grams for _, grams in batches]).numpy()
    np.testing.assert_array_equal(grams, photos[list(pasture.TARGETS)].astype("f4"))
    # Without antialiasing, edges would differ from the mean of 2 x 2 pixels.
    whole = np.asarray(Image.open(photos["path"].iloc[5])).astype(float)
    mean = whole.reshape(32, 2, 64, 2, 3).mean((1, 3))
    found = batches[1][0][1].permute(1, 2, 0).numpy()
    assert np.abs(found - mean).mean() < 3


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 100])
def test_every_photo_once_an_epoch_in_one_process(photos, ranks, batch_size):
    loader = loader_of(photos, batch_size=batch_size, height=2, width=4)
    shares = [list(loader.epoch(3, rank, ranks)) for rank in range(ranks)]
    assert {len(share) for share in shares} == {loader.batches_per_epoch(ranks)}
    sizes = [len(grams) for share in shares for _, grams in share]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    totals = [grams[:, 4] for share in shares for _, grams in share]
    np.testing.assert_array_equal(
        np.sort(torch.cat(totals)), np.sort(photos["Dry_Total_g"].astype("f4"))
    )


def test_order_follows_from_seed_and_epoch_alone(photos):
    def order(seed: int, epoch: int) -> list[float]:
        batches = loader_of(photos, seed=seed, height=2, width=4).epoch(epoch)
        return torch.cat([grams[:, 4] for _, grams in batches]).tolist()

    assert order(0, 7) == order(0, 7)
    assert order(0, 7) != order(0, 6)
    assert order(0, 7) != order(1, 7)


@pytest.mark.parametrize("ranks", [1, 2])
def test_photos_of_batches_before_the_start_are_not_read(photos, ranks):
    loader = loader_of(photos, batch_size=2, height=2, width=4)
    for rank in range(ranks):
        whole = list(loader.epoch(3, rank, ranks))
        for start in range(len(whole) + 1):
            rest = list(loader.epoch(3, rank, ranks, start))
            assert len(rest) == len(whole) - start
            for batch, expected in zip(rest, whole[start:], strict=True):
                assert torch.equal(batch[0], expected[0])
                assert torch.equal(batch[1], expected[1])
    ordered = loader_of(photos, batch_size=2, shuffle=False, height=2, width=4)
    for path in photos["path"][:8]:
        Path(path).unlink()
    assert len(list(ordered.epoch(0, start=4))) == 2


def test_photos_are_read_no_further_ahead_than_set(photos):
    batches = loader_of(photos, batch_size=2, shuffle=False, ahead=1).epoch(0)
    next(batches)
    time.sleep(0.5)  # time in which threads would read too far
    for path in photos["path"][4:]:
        Image.new("RGB", (2, 1)).save(path)
    assert next(batches)[0].float().std() > 0
    assert next(batches)[0].max() == 0


def test_a_photo_damaged_after_the_check_is_named(photos):
    path = photos["path"].iloc[9]
    with open(path, "wb") as file:
        file.write(b"\x89PNG")
    with pytest.raises(pasture.PhotoError, match=r"ID9\.png cannot be read"):
        list(loader_of(photos).epoch(0))


def test_more_processes_than_photos_are_refused(photos):
    with pytest.raises(ValueError, match="13 processes, got 12"):
        loader_of(photos).batches_per_epoch(13)


# --- submissions ---


def test_a_submission_is_long_and_exact(photos, tmp_path):
    grams = photos[list(pasture.TARGETS)] / 3
    grams.index = [f"ID{number}" for number in range(12)]
    pasture.write_submission(grams, tmp_path / "submission.csv")
    read = pd.read_csv(tmp_path / "submission.csv", dtype=str)
    assert list(read.columns) == ["sample_id", "target"]
    assert len(read) == 60
    values = read.set_index("sample_id")["target"]
    assert float(values["ID3__GDM_g"]) == grams.loc["ID3", "GDM_g"]
    assert float(values["ID11__Dry_Total_g"]) == grams.loc["ID11", "Dry_Total_g"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: pd.concat([p, p.iloc[:1]]), "predicted twice: a;"),
        (lambda p: p.replace(2.0, np.nan), "unpredicted: b;"),
        (lambda p: p.rename(columns={"GDM_g": "GDM"}), "got 2 rows and GDM"),
        (lambda p: p.iloc[:0], "got 0 rows"),
    ],
)
def test_incomplete_predictions_are_refused(change, message, tmp_path):
    predictions = pd.DataFrame({"GDM_g": [1.0, 2.0]}, index=["a", "b"])
    with pytest.raises(pasture.PhotoError, match=message):
        pasture.write_submission(change(predictions), tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
