"""Files that appear whole or not at all, and digests of what they hold."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from geobiomass.training.files import replacing, sha256_of, sha256_of_file, write_whole


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as part:
            part.write_text("ha")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_never_share_a_name(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    with replacing(path, ".pt2") as first, replacing(path, ".pt2") as second:
        assert first != second
        assert {first.suffix, second.suffix} == {".pt2"}
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the inner one was renamed before


def test_text_is_written_as_utf_8_with_its_own_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_whole(path, "Fläche ≥ 1\n")
    assert path.read_bytes() == "Fläche ≥ 1\n".encode()
    write_whole(path, b"\x00\r\n")
    assert path.read_bytes() == b"\x00\r\n"


def test_a_digest_is_that_of_the_joined_parts(tmp_path: Path) -> None:
    expected = hashlib.sha256("Fläche".encode() + b"\x00\x01").hexdigest()
    assert sha256_of(["Fläche", b"\x00", memoryview(b"\x01")]) == expected
    assert sha256_of("Fläche".encode() + b"\x00\x01") == expected
    assert sha256_of("Fläche") == hashlib.sha256("Fläche".encode()).hexdigest()
    path = tmp_path / "data.bin"
    path.write_bytes("Fläche".encode() + b"\x00\x01")
    assert sha256_of_file(path) == expected
