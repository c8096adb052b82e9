"""Tables of photos that can be used, but are most often a mistake: told with counts."""

from __future__ import annotations

import shutil
import warnings

import pandas as pd
import pytest

import pasture
from tests.pasture.pasture_files import draw_photos


def test_copies_and_wrong_sums_are_told(tmp_path) -> None:
    table = pasture.read_photos(draw_photos(tmp_path), tmp_path)
    green, dead, clover, matter, total = pasture.TARGETS
    plain = pd.DataFrame({"image_path": table["path"]}).assign(
        **{name: table[name] for name in (green, dead, clover)}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = pasture.read_photos(plain)
        assert "doubts" not in read.attrs
        # Clover is absent from many paddocks; scales round to a tenth of a gram.
        pasture.read_photos(plain.assign(**{clover: 0.0}))
        pasture.read_photos(read.round(1).rename(columns={"path": "image_path"}))
    first = plain["image_path"].iloc[0]
    copy = tmp_path / "again.jpg"
    shutil.copy(first, copy)
    wrong = read.rename(columns={"path": "image_path"}).reset_index(drop=True)
    wrong.loc[3, total] += 50
    wrong.loc[len(wrong)] = {**wrong.loc[0], "image_path": str(copy)}
    wrong[matter] = wrong[green] + wrong[clover]
    with pytest.warns(UserWarning, match="photos to look at: 1 photos have the same"):
        told = pasture.read_photos(wrong).attrs["doubts"]
    assert f"({copy} as {first})" in told[0]
    assert told[1].startswith(f"{total} of 1 photos is not the sum of {green} and ")
    assert "by up to 50 g" in told[1]
    assert len(told) == 2
