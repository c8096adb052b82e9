"""The comparison of the synthetic landscape with real chips runs, or says why not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_without_real_chips_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import landscape_truth

    monkeypatch.delenv("GEOBIOMASS_DATA", raising=False)
    landscape_truth.main(["--quick"])
    assert "GEOBIOMASS_DATA names no folder" in capsys.readouterr().out


def test_the_variogram_of_noise_is_flat_and_of_blocks_is_not() -> None:
    import landscape_truth

    random = np.random.default_rng(0)
    noise = random.normal(100, 30, (256, 256)).astype(np.float32)
    np.testing.assert_allclose(landscape_truth.variogram([noise]), 1, atol=0.05)
    blocks = np.repeat(np.repeat(noise[::16, ::16], 16, axis=0), 16, axis=1)
    curve = dict(
        zip(landscape_truth.LAGS, landscape_truth.variogram([blocks]), strict=True)
    )
    # Of pixels one apart, one pair in sixteen is of two blocks; sixteen apart, all are.
    assert curve[1] == pytest.approx(1 / 16, abs=0.02)
    assert curve[16] == pytest.approx(1, abs=0.1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_it_prints_every_table_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "GEOBIOMASS_DATA" not in os.environ:
        pytest.skip("GEOBIOMASS_DATA names no folder with real BioMassters chips")
    import landscape_truth

    landscape_truth.main(["--quick", "--markdown", "--pictures", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.count("| figure | real | version 1 | version 2 |") == 5
    rows = {
        cells[0].strip(): [cell.strip() for cell in cells[1:]]
        for line in printed.splitlines()
        if line.startswith("| ")
        for cells in [line.strip("| ").split("|")]
    }
    assert rows["exact zeros, %"][0] == "25.9"  # of the 67 real chips
    assert rows["10 m"][0] == "0.13"
    rough, smooth = float(rows["10 m"][2]), float(rows["10 m"][1])
    assert rough > 1.3 * smooth  # version 2 has the finer texture
    right = rows["flagged rightly, all months, %"]
    assert float(right[1]) > float(right[2])  # version 1 flags every opaque cloud
    for name in ("landscape-chips.jpg", "landscape-curves.png"):
        assert (tmp_path / name).stat().st_size > 5000
