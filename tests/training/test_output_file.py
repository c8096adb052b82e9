"""Files at a path that a user gives: whole, alone, and refused in one sentence."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from geobiomass.training.disk_errors import DiskError
from geobiomass.training.files import check_writable, output_file, write_whole


def test_a_file_is_written_where_a_link_or_a_new_folder_says(tmp_path: Path) -> None:
    target, link = tmp_path / "far" / "table.csv", tmp_path / "table.csv"
    write_whole(target, "old")
    link.symlink_to(target)
    target.chmod(0o640)
    left = [f".table.csv.{'0a' * 16}{end}" for end in (".part", ".png")]
    for name in left:
        (target.parent / name).write_text("half")
    other = target.parent / f".other.csv.{'0a' * 16}.part"
    other.write_text("of another file")
    write_whole(str(link), "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(target.parent.iterdir()) == [other, target]
    long = tmp_path / ("n" * 245 + ".csv")
    write_whole(long, "long")
    assert long.read_text() == "long"
    with output_file(tmp_path / "figure.png", ".png") as part:
        part.write_text("a picture")
        assert part.suffix == ".png"
    assert (tmp_path / "figure.png").read_text() == "a picture"
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["far", "figure.png", long.name, "table.csv"]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes with a name")
def test_a_pipe_is_written_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]
    if Path("/dev/full").exists():
        with pytest.raises(DiskError, match=r"^/dev/full cannot .* disk is full; make"):
            write_whole("/dev/full", "text")
        assert Path("/dev/full").is_char_device()


def test_where_no_file_can_be_is_one_sentence_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, words in (
        ("folder", "a folder is there; choose another path"),
        ("file/table.csv", "a part of it is a file, not a folder"),
        ("file/deep/table.csv", "a part of it is a file, not a folder"),
        ("loop", "its link leads back to itself"),
        ("n" * 300 + ".csv", "its name is too long; choose a shorter one"),
    ):
        before = sorted(tmp_path.rglob("*"))
        for write in (lambda path: write_whole(path, "text"), check_writable):
            with pytest.raises(DiskError) as caught:
                write(tmp_path / name)
            assert str(caught.value).startswith(f"{tmp_path / name} cannot be written")
            assert words in str(caught.value)
        assert sorted(tmp_path.rglob("*")) == before
    check_writable(tmp_path / "new" / "table.csv")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:2])
        raise OSError(28, "No space left on device")  # writing names no file

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskError) as caught:
        write_whole(path, "text")
    assert str(caught.value) == (
        f"{path} cannot be written: its disk is full; make room, and make the same "
        "call again."
    )
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
