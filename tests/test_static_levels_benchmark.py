"""The comparison of levels for static layers: its table, its ground, that it runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from test_label_shift_benchmark import cells_of

import static_levels


def test_a_table_compares_seed_by_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    known = {
        ("no layers", 0): (40.0, 1.0),
        ("no layers", 1): (20.0, 3.0),
        ("both", 0): (30.0, 2.0),
        ("both", 1): (18.0, 4.0),
        ("both", 2): (99.0, 9.0),  # without the other of its seed
    }
    lines = [
        {"cell": "landscape", "row": row, "seed": seed, "rmse": rmse, "bias": 0.5}
        | {"seconds": seconds}
        for (row, seed), (rmse, seconds) in known.items()
    ]
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    static_levels.main(["--out", str(out), "--markdown", "--show"])
    head, first, last = cells_of(capsys.readouterr().out)
    assert first[:3] == ["no layers", "2", "30"]
    found = dict(zip(head, last, strict=True))
    assert (found["layers"], found["seeds"], found["RMSE"]) == ("both", "2", "24")
    # 0.75 and 0.9, seed by seed.
    assert (found["over none"], found["CPU s"]) == ("0.825", "3")
    assert found["least, most"] == "0.75, 0.90"


def test_a_third_of_the_blocks_tests() -> None:
    test = static_levels.held_out(256, 64)
    assert test.shape == (256, 256)
    assert test.mean() == 5 / 16
    assert test[0, 64]
    assert not test[0, 0]
    assert (test[:64, 64:128]).all()


@pytest.mark.slow
def test_terrain_takes_biomass_and_every_row_trains(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    with pytest.warns(UserWarning, match="missing pixels"):  # at the edge of the model
        static_levels.main(["--quick", "--out", str(out), "--markdown"])
    assert len(cells_of(capsys.readouterr().out)) == 1 + len(static_levels.ROWS)
    scene = static_levels.terrain_scene(128)
    assert scene["static"].sizes["layer"] == 4
    plain = static_levels.gb.landscape(
        128, months=static_levels.MONTHS, seed=static_levels.GROUND
    )
    there = plain["agb"].values > 0
    factor = scene["agb"].values[there] / plain["agb"].values[there]
    layers = scene["static"].values[:, there]
    metres, slope, _, north = layers
    least = float(scene["static"].sel(layer="elevation").min())
    rest = factor / (1 - 0.4 * (metres - least) / 100).clip(0.2)
    assert rest.min() > 0.749
    assert rest.max() < 1.251
    steep = np.nan_to_num(slope) > 0.5
    assert (rest[steep & (north > 0.1)] < 1).all()
    assert (rest[steep & (north < -0.1)] > 1).all()
