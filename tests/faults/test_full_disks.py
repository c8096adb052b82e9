"""Tables and pages on a full or unwritable disk: told, and the old file stays."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from killing import Killing
from new_process import NewProcesses
from outcomes import check

WRITERS = [
    "residuals, again",
    "report, again",
    "evaluate, table",
    "totals, table",
    "submission of photos",
    "stac item",
]
CODES = (errno.ENOSPC, errno.EROFS, errno.EACCES)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_told_and_the_old_file_stays(
    name: str, tmp_path: Path, warm: NewProcesses
) -> None:
    killing = Killing(name, "zarr-python", tmp_path / "k", warm)
    # Each code at most once: at the first change, at the last, and between.
    places = killing.needing_space()
    chosen = dict.fromkeys([places[0], places[-1], places[len(places) // 2]])
    found = [
        killing.full(place, code) for place, code in zip(chosen, CODES, strict=False)
    ]
    assert len(found) >= 2
    assert all("cannot be written" in one.fault for one in found), found
    check(found)
