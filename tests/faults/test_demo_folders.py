"""Demonstrations check their folder before they work, and touch no file of a person."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import pasture.demo
from geobiomass.cli import app, demo
from pasture.cli import app as pasture_app


class Working(Exception):
    """The demonstration has begun to work."""


@pytest.fixture(params=["geobiomass", "pasture"])
def outcome(request: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return what the command ends with; `Working` where it would work for minutes."""

    def works(*given: Any, **named: Any) -> None:
        raise Working

    monkeypatch.setattr(demo, "landscape", works)
    monkeypatch.setattr(pasture.demo, "draw_swards", works)
    command = app if request.param == "geobiomass" else pasture_app

    def run(*options: str) -> Any:
        return CliRunner().invoke(command, ["demo", *options]).exception

    run.of = request.param  # type: ignore[attr-defined]
    return run


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(one.relative_to(folder)): one.read_bytes()
        for one in folder.rglob("*")
        if one.is_file()
    }


def test_odd_folders_and_seeds_are_refused_in_one_sentence(
    outcome: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    for options, said in {
        ("--out", str(tmp_path / "file")): "must be a folder, got a file",
        ("--out", str(tmp_path / "file/in")): "Nothing can be written to .*Not a dir",
        ("--out", "/proc/demo"): "Nothing can be written to /proc/demo",
        ("--out", "/sys"): r"Nothing can be written to /sys \(",
        ("--out", str(tmp_path / ("a" * 300))): "cannot be the path of a file",
        ("--out", str(tmp_path / "new"), "--seed", "-1"): "whole number from 0, got -1",
    }.items():
        error = outcome(*options)
        if options[1].startswith(("/proc", "/sys")) and not Path("/proc").exists():
            continue  # a system without these folders
        assert isinstance(error, OSError | ValueError), repr(error)
        assert re.search(said, str(error)), str(error)
        assert "\n" not in str(error)
    assert snapshot(tmp_path) == {"file": b"mine"}


def test_a_persons_files_stay(outcome: Any, tmp_path: Path) -> None:
    names = {
        "geobiomass": (
            *("map.png", "metrics.csv", "map.tif", "scene.zarr/notes.txt"),
            *("model/thesis.txt", "scene.zarr", "model"),
        ),
        "pasture": (
            *("scores.csv", "photos.png", "scatter.png", "submission.csv"),
            *("model/thesis.txt", "photos/train.csv", "photos/photos/a.jpg", "photos"),
        ),
    }
    for number, name in enumerate(names[outcome.of]):
        out = tmp_path / str(number)
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("mine")
        error = outcome("--out", str(out))
        assert isinstance(error, OSError | ValueError), f"{name}: {error!r}"
        assert str(out / name.partition("/")[0]) in str(error)
        assert snapshot(out) == {name: b"mine"}
    # Other files are no obstacle, and a folder that is given in a roundabout way.
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("mine")
    roundabout = tmp_path / "absent/../other"
    assert isinstance(outcome("--out", str(roundabout)), Working)
    assert (tmp_path / "other/thesis.txt").read_text() == "mine"
    assert not (tmp_path / "absent").exists()
    # So is one that was interrupted.
    assert isinstance(outcome("--out", str(roundabout)), Working)
