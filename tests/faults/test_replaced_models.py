"""Models, reports and maps that are replaced: there is always one, and only ours go."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

import geobiomass.training.folder_exchange as exchange
from geobiomass.report import _check_replaceable
from geobiomass.training import disk_errors, estimator
from geobiomass.training.kept_folder import kept_if_interrupted
from geobiomass.training.one_writer import InUseError, one_writer


class Small(estimator.Regressor):
    """A regressor of one weight."""

    load_call = "Small.load(folder)"

    def __init__(self, weight: float = 0.0) -> None:
        self.network = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(self.network.weight, weight)
        self.history = pd.DataFrame()
        self.fitted = True

    def _settings(self) -> dict[str, object]:
        return {}

    @classmethod
    def _from_settings(cls, settings: object) -> Small:
        return cls()


def weight(folder: Path) -> float:
    return Small.load(folder).network.weight.item()


def test_there_is_always_a_model_and_leftovers_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    Small(1).save(folder)
    for number in range(2):  # as killed calls leave them
        left = exchange.new_part(folder)
        shutil.copytree(folder, left)
        if number:
            left.rename(left.with_suffix(".0.old"))
    documents = exchange.new_part(folder)
    documents.mkdir()
    (documents / "thesis.docx").touch()

    seen = []
    real = os.rename

    def watched(one: str, other: str) -> None:
        seen.append(folder.exists())
        real(one, other)

    monkeypatch.setattr(os, "rename", watched)
    Small(2).save(folder)
    assert all(seen)  # on Linux the names are exchanged, in one step
    assert weight(folder) == 2
    assert sorted(tmp_path.iterdir()) == sorted([folder, documents])
    shutil.rmtree(documents)

    # Where names cannot be exchanged, a kill between the renamings leaves both.
    monkeypatch.setattr(exchange, "exchange_folders", lambda one, other: False)

    def killed(one: Path, other: Path) -> None:
        if Path(other) == folder:
            raise KeyboardInterrupt
        real(one, other)

    monkeypatch.setattr(os, "rename", killed)
    monkeypatch.setattr(shutil, "rmtree", lambda *path, **options: None)
    with pytest.raises(KeyboardInterrupt):
        Small(3).save(folder)
    monkeypatch.undo()
    assert not folder.exists()
    with pytest.warns(UserWarning, match="was being replaced when a process was kill"):
        assert weight(folder) == 3
    Small(4).save(folder)
    assert weight(folder) == 4
    assert list(tmp_path.iterdir()) == [folder]


def test_a_second_training_in_a_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "first"
    with (
        kept_if_interrupted(folder),
        kept_if_interrupted(folder / "member-1"),
        pytest.raises(InUseError, match=f"being written by process {os.getpid()}"),
        one_writer(folder),
    ):
        pass
    with one_writer(folder):
        pass
    assert list(folder.parent.iterdir()) == []


def test_errors_of_libraries_on_a_full_disk_are_one_sentence(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    place = tmp_path / "model"
    errors = [
        SafetensorError(
            "Error while serializing: No space left on device (os error 28)"
        ),
        RuntimeError("store: No space left on device"),
        OSError(28, "No space left on device", str(place / "weights.safetensors")),
    ]
    for error in errors:
        with (
            pytest.raises(disk_errors.DiskError) as caught,
            disk_errors.told_of_disk(place, "save it again"),
        ):
            raise error
        assert str(caught.value) == (
            f"{place} cannot be written: its disk is full; make room, and save it "
            "again."
        )
    with (
        pytest.raises(disk_errors.DiskError, match=r"/proc/x.tif cannot be written"),
        one_writer(Path("/proc/x.tif"), wait=0.05),
    ):
        pass
    # A file that cannot be read is another matter.
    with pytest.raises(PermissionError), disk_errors.told_of_disk(place):
        raise PermissionError(13, "Permission denied", "/data/input.tif")


def test_only_a_report_is_replaced_by_a_report(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    _check_replaceable(page)
    page.write_text("<html><title>my thesis</title></html>")
    with pytest.raises(FileExistsError, match=r"no report of geobiomass"):
        _check_replaceable(page)
    page.write_text("<style>.geobiomass,.scroll{overflow-x:auto}</style>")
    _check_replaceable(page)
