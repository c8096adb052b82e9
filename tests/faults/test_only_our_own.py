"""Finished maps are looked at again, and only what the package made is replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import kept
import pandas as pd
import pytest
import zarr
from conftest import make_chips
from map_work import Work, write

import geobiomass as gb
import pasture
from geobiomass.cube import sealing, verify
from geobiomass.evaluation.residuals import read_residuals, write_residuals
from geobiomass.maps import overviews
from geobiomass.tables.writing import write_csv
from geobiomass.training.one_writer import Writer, one_writer
from geobiomass.training.own_files import check_demo_folder


def flip(path: Path, at: float = 0.5) -> bytes:
    """Flip a bit; return what was there."""
    before = path.read_bytes()
    content = bytearray(before)
    content[int(len(before) * at)] ^= 4
    path.write_bytes(bytes(content))
    return before


def test_a_finished_zarr_map_is_read_by_the_call_that_made_it(tmp_path: Path) -> None:
    path, work = tmp_path / "looked_at.zarr", Work(tmp_path / "log")
    write(path, work)
    write(path, work)
    assert len(work.computed) == 12
    shard, blank = path / "agb/c/1/2", path / "agb/c/0/0"
    whole = shard.read_bytes()
    for name, damage, said in (
        ("agb/c/1/2", lambda: flip(shard, 0.2), "damaged chunk at byte"),
        ("agb/c/1/2", shard.unlink, "is gone"),
        ("agb/c/0/0", lambda: blank.write_bytes(whole), "was not there"),
        ("x/c/0", lambda: flip(path / "x/c/0"), "checksum differs"),
    ):
        place = path / name
        there = place.read_bytes() if place.exists() else None
        damage()
        with pytest.raises(gb.DamagedError, match=f"{name} .*{said}.*overwrite=True"):
            write(path, work)
        with pytest.raises(gb.DamagedError, match=name):  # nor sealed as it is now
            write(path, work, overviews=True)
        if there is None:
            place.unlink()
        else:
            place.write_bytes(there)
    write(path, work)
    assert len(work.computed) == 12
    flip(shard, 0.2)
    write(path, work, overwrite=True)
    assert len(work.computed) == 24
    assert verify(path).empty


def test_a_finished_geotiff_is_read_by_the_call_that_made_it(tmp_path: Path) -> None:
    path, work = tmp_path / "looked_at.tif", Work(tmp_path / "log")
    write(path, work)
    write(path, work)
    whole = flip(path, 0.6)
    with pytest.raises(gb.DamagedError, match=r"looked_at.tif .*overwrite=True"):
        write(path, work)
    assert len(work.computed) == 12
    write(path, work, overwrite=True)
    assert path.read_bytes() == whole


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_overviews_that_are_interrupted_leave_a_sealed_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overviews, "SMALLEST", 64)
    path, work = tmp_path / "grown.zarr", Work(tmp_path / "log")
    write(path, work)
    levels = "overviews/2/agb/zarr.json"

    def stop(*_: object, **__: object) -> None:
        raise Killed

    def kill_in(place: object, name: str, after: int) -> None:
        real, calls = getattr(place, name), iter(range(99))
        with monkeypatch.context() as patch:
            patch.setattr(
                place,
                name,
                lambda *a, **k: (stop if next(calls) == after else real)(*a, **k),
            )
            with pytest.raises(Killed):
                write(path, work, overviews=True)

    # In the levels, before and between the three writes that show them, and at the end;
    # again and again at the same map.
    for place, name, after, shown in (
        (overviews, "_fill", 1, False),
        (overviews, "publish_sealed", 0, False),
        (sealing, "write_root", 0, False),
        (overviews, "_fill", 2, False),
        (sealing, "_write", 1, True),
    ):
        kill_in(place, name, after)
        assert verify(path).empty, name
        gb.describe(path)
        assert ("multiscales" in zarr.open_group(path, mode="r").attrs) is shown, name
        if (path / levels).exists() and shown:
            before = flip(path / levels)
            with pytest.raises(gb.DamagedError, match=levels):
                gb.describe(path)
            (path / levels).write_bytes(before)
    write(path, work, overviews=True)
    assert verify(path).empty
    assert len(work.computed) == 12


def submit(folder: Path, **settings: object) -> Path:
    chips = make_chips(2).isel(month=[1, 2])
    options = {"tile": 32, "overlap": 16, "progress": False, "check": "off", **settings}
    return kept.untrained().predict_chips_to(folder, chips, **options)


@pytest.mark.parametrize(
    "name", ["chip000_agbm.tif", ".notes_agbm.tif.unfinished", "mine.unfinished"]
)
def test_a_persons_file_in_a_folder_of_chips_stays(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / name).write_bytes(b"a person's raster, cut short")
    for chosen in ({}, {"overwrite": True}):
        with pytest.raises(FileExistsError, match=f"{name}.*(move|choose)"):
            submit(folder, **chosen)
    assert (folder / name).read_bytes() == b"a person's raster, cut short"
    assert len(list(folder.iterdir())) == 1
    (folder / name).unlink()
    part = folder / f".chip000_agbm.tif.{'a1' * 16}.unfinished"  # of a killed call
    part.write_bytes(b"half")
    (folder / "chip000_agbm.tif").touch()  # a copy that did not begin
    submit(folder)
    assert sorted(f.name for f in folder.iterdir()) == [
        "chip000_agbm.tif",
        "chip001_agbm.tif",
    ]


def residuals_at(path: Path) -> None:
    table = pd.DataFrame(
        {"observed": [1.0], "predicted": [2.0], "y": [0.0], "x": [0.0], "unit": ["a"]}
    )
    table.attrs = {"kind": "chips", "pixel": (10.0, 10.0)}
    write_residuals(table, path)
    assert read_residuals(path)["predicted"].tolist() == [2.0]


def submission_at(path: Path) -> None:
    table = pd.DataFrame({"Dry_Green_g": [1.5]}, index=["photo"])
    pasture.write_submission(table, path)


def predictions_at(path: Path) -> None:
    table = pd.DataFrame({"Dry_Green_g": [1.5]}, index=["photo"])
    pasture.photos.write_predictions(table, path)


def errors_at(path: Path) -> None:
    table = pd.DataFrame({"n": [3], "pixel_rmse": [1.5]}, index=["all"])
    write_csv(table, path, "table of errors", mark="pixel_rmse")


def export_at(path: Path) -> None:
    kept.untrained().export(path, height=32, width=32)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (residuals_at, "held.csv"),
        (submission_at, "submission.csv"),
        (predictions_at, "grams.csv"),
        (errors_at, "errors.csv"),
        pytest.param(export_at, "network.pt2", marks=pytest.mark.slow),
    ],
)
def test_a_file_is_replaced_only_by_another_of_its_kind(
    tmp_path: Path, make: Callable[[Path], None], name: str
) -> None:
    path = tmp_path / name
    make(path)
    make(path)
    ours = path.read_bytes()
    mine = b"photo,Dry_Green_g,date,state\na.jpg,2.5,2020-01-02,Tas\n"
    path.write_bytes(mine)
    if make is residuals_at:
        (tmp_path / f"{name}.json").unlink()
    with pytest.raises(FileExistsError, match=f"{name} holds .* move or delete it"):
        make(path)
    assert path.read_bytes() == mine
    assert [f.name for f in tmp_path.iterdir()] == [name]
    path.write_bytes(b"")
    if make is not residuals_at:
        make(path)
        assert len(path.read_bytes()) == pytest.approx(len(ours), abs=64)


def test_a_lock_of_something_else_stays(tmp_path: Path) -> None:
    lock = tmp_path / "uv.lock"
    lock.write_text("version = 1\n[[package]]\n")
    others = (
        "version = 1\n[[package]]\n",
        '{"nodes": {}}',
        '{"host": "a"}',
        '{"hosts"',
    )
    for text in others:
        lock.write_text(text)
        with pytest.raises(FileExistsError, match=r"uv.lock .*move that file"):
            kept.untrained().save(tmp_path / "uv")
        with pytest.raises(FileExistsError), one_writer(tmp_path / "uv"):
            pass
        assert lock.read_text() == text
    whole = Writer.here().text()
    # Of a killed call, and of a full disk.
    for cut in (
        "",
        *(whole[:length] for length in (1, 9, 10, 30, 100, len(whole) - 1)),
    ):
        lock.write_text(cut)
        with one_writer(tmp_path / "uv"):
            assert '"pid"' in lock.read_text()
        assert not lock.exists()


def test_a_demonstration_keeps_a_persons_pictures(tmp_path: Path) -> None:
    names = ("map.png", "metrics.csv")
    check_demo_folder(tmp_path, names)
    (tmp_path / "map.png").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"map.png is of no earlier .* move"):
        check_demo_folder(tmp_path, names)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")  # pictures are after the model
    check_demo_folder(tmp_path, names)
