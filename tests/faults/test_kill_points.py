"""The tools of the fault tests do what they say."""

from __future__ import annotations

from pathlib import Path

import kill_points
import pytest

SCRIPT = """
import os, pathlib, shutil
place = pathlib.Path({place!r})
(place / "made").mkdir()                    # 1
(place / "made/file").write_bytes(b"12345")  # 2
os.replace(place / "made/file", place / "made/other")  # 3
print((place / "made/other").read_bytes())  # reading does not count
shutil.rmtree(place / "made")               # 4, 5: relative to a descriptor
(place.parent / "beside").write_text("")    # not in the folder
"""


def test_a_script_is_killed_before_each_change_to_a_file(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    script = SCRIPT.format(place=str(place))
    done = [
        (kind, where.name) for kind, where in kill_points.operations_of(script, place)
    ]
    assert done == [
        ("os.mkdir", "made"),
        ("open", "file"),
        ("os.rename", "file"),
        ("os.remove", "other"),
        ("os.rmdir", "made"),
    ]
    for operation, left in ((2, ["made"]), (3, ["made", "made/file"]), (5, ["made"])):
        assert kill_points.kill_at(script, operation, place)
        found = sorted(path.relative_to(place).as_posix() for path in place.rglob("*"))
        assert found == left
        for path in sorted(place.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    assert not kill_points.kill_at(script, 6, place)


@pytest.mark.parametrize("killed", [True, False])
def test_a_file_has_a_largest_size(tmp_path: Path, killed: bool) -> None:
    file = str(tmp_path / "file")
    script = f"import pathlib; pathlib.Path({file!r}).write_bytes(bytes(1000))"
    if killed:
        assert kill_points.kill_at_size(script, 300)
    else:
        done = kill_points.fail_at_size(script, 300)
        assert "File too large" in done.stderr
    assert (tmp_path / "file").stat().st_size == 300
    assert not kill_points.kill_at_size(script, 1000)


def test_a_disk_is_full_from_a_change_on(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "old").touch()
    script = f"""
    import pathlib
    place = pathlib.Path({str(tmp_path / "made")!r})
    (place / "first").touch()
    (place / "old").unlink()
    (place / "second").touch()
    """
    done = kill_points.fail_at(script, 2, tmp_path)
    assert "No space left on device" in done.stderr
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["first"]
