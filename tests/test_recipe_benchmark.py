"""The comparison of recipes: its chips, its rows, and that it runs and resumes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from new_process import NewProcesses

import geobiomass as gb
from geobiomass.network import AttentionUNet

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the chips of the smallest comparison, for all of them."""
    from recipe_data import write_chips
    from recipe_rows import SIZES

    folder = tmp_path_factory.mktemp("chips")
    write_chips(folder, SIZES["quick"].chips)
    return folder


def tables(printed: str) -> list[dict[str, str]]:
    """Return the rows of the first table, by the names of its columns."""
    lines = [line for line in printed.split("###")[1].splitlines() if line[:2] == "| "]
    head, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines
    )
    return [dict(zip(head, row, strict=True)) for row in rows]


@pytest.mark.slow
@pytest.mark.timeout(900)  # three processes
def test_rows_run_are_kept_and_added_to(
    tmp_path: Path,
    chips: Path,
    new_process: NewProcesses,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import recipes

    # Imports take longer than these runs.
    forked = SimpleNamespace(run=new_process.run)
    monkeypatch.setattr(recipes, "subprocess", forked)

    def compare(*names: str) -> tuple[str, str]:
        words = ["--quick", "--markdown", "--folder", str(chips)]
        recipes.main([*words, "--out", str(tmp_path), "--rows", *names])
        return capsys.readouterr()

    printed, _ = compare("ours", "gradient boosting by pixel")
    kept = json.loads((tmp_path / "results.json").read_text())
    assert len(kept) == 2
    printed_later, said = compare("winner", "ours")
    assert "1 runs" in said  # ours is not run twice
    now = json.loads((tmp_path / "results.json").read_text())
    assert len(now) == 3
    assert {key: now[key] for key in kept} == kept
    rows = {
        row["row"].split(" (")[0]: row
        for text in (printed, printed_later)
        for row in tables(text)
    }
    assert list(rows) == ["ours", "gradient boosting by pixel", "winner"]
    for row in rows.values():
        # Label means are about 60 Mg/ha: nothing sensible is further off than this.
        assert 5 < float(row["average RMSE"]) < 200
        assert float(row["core-s in all"]) > 0
    # Chips of this size are small: ours leaves out the levels they cannot teach.
    for name, millions in (("winner", 5), ("ours", 0.1)):
        assert float(rows[name]["core-s a step"]) > 0
        assert float(rows[name]["million parameters"]) > millions
    difference = [float(rows[n]["average RMSE"]) for n in ("winner", "ours")]
    assert float(rows["winner"]["minus ours"]) == pytest.approx(
        difference[0] - difference[1], abs=0.011
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["recipes", "tall_forest"])
def test_it_is_called_as_a_module(name: str, new_process: NewProcesses) -> None:
    process = new_process.start("-m", f"benchmarks.{name}", "--help")
    said, errors = process.communicate(60)
    assert process.returncode == 0, errors
    assert "--quick" in said


@pytest.mark.slow
def test_chips_have_the_patterns_they_are_dealt(tmp_path: Path) -> None:
    from recipe_data import TESTED, UNTESTED, Chips, cube_of, fill_chips, write_chips

    chips = Chips(32, 20, 4, 4)
    write_chips(tmp_path, chips)
    dealt = json.loads((tmp_path / "chips.json").read_text())
    patterns = {
        part: [c["pattern"] for c in dealt[part]] for part in dealt if part[0] != "f"
    }
    assert {p: patterns["test"].count(p) for p in TESTED} == dict.fromkeys(TESTED, 1)
    assert {p: patterns["even"].count(p) for p in TESTED} == dict.fromkeys(TESTED, 5)
    late, later = (patterns["shift"].count(p) for p in UNTESTED)
    assert (late, later) == (3, 1)  # 15 and 6 % of 20
    seeds = [[c["seed"] for c in dealt[p]] for p in ("even", "validation", "test")]
    assert len({seed for part in seeds for seed in part}) == 20 + 4 + 4
    for part in ("even", "shift", "test"):
        cube = gb.open_cube(cube_of(tmp_path, part))
        seen = np.isfinite(cube["image"].sel(band="B08").values).any(axis=(2, 3))
        allowed = np.array([[c == "1" for c in p] for p in patterns[part]])
        assert not (seen & ~allowed).any()
        assert seen.sum() > 0.9 * allowed.sum()
        assert np.isfinite(cube["image"].sel(band="VV_asc").values).all()
        assert np.isfinite(cube["agb"].values).all()
    filled = gb.open_cube(fill_chips(tmp_path, "test"))["image"]
    plain = gb.open_cube(cube_of(tmp_path, "test"))["image"].values
    there = np.isfinite(plain)
    assert np.array_equal(filled.values[there], plain[there])
    lowest = np.broadcast_to(filled.sel(band="VH_desc").min().values, 1)
    assert lowest == pytest.approx(-60, abs=0.01)
    assert (filled.sel(band="B02").values[~there[:, :, 4]] == 0).all()


def test_the_way_from_the_winner_to_ours_is_one_switch_at_a_time() -> None:
    from recipe_rows import OURS, SIZES, SWITCHES, WINNER, make_rows, steps_of, value_of

    for size in SIZES.values():
        rows = make_rows(size, size.steps)
        chain = [name for name in rows if name == OURS or name.startswith("+")]
        neighbours = [rows[name].neighbour for name in chain]
        assert neighbours == [WINNER, *chain[:-1]]
        groups = {frozenset(names) for names in SWITCHES.values()}
        for name in chain[1:]:
            row, before = rows[name], rows[rows[name].neighbour]
            changed = {
                setting
                for names in groups
                for setting in names
                if value_of(row.recipe, setting) != value_of(before.recipe, setting)
            }
            assert changed, name
            assert any(changed <= group for group in groups), (name, changed)
        # Crops do not go into an epoch evenly: 297 steps of seven in place of 288.
        for row in rows.values():
            rounding = 0.05 if row.recipe.crop else 0
            assert steps_of(row, size) == pytest.approx(size.steps, rel=rounding)


def test_months_are_averaged_where_they_are() -> None:
    from recipe_peers import average_months

    torch.manual_seed(0)
    network = AttentionUNet(3, "resnet10t", (16, 12, 8, 8, 8)).eval()
    average_months(network)
    image = torch.randn(1, 3, 3, 32, 32)
    image[:, 1] = torch.nan
    with torch.inference_mode():
        weights = [network.encoder(image[:, m])[0] for m in (0, 2)]
        pooled = network._encode_and_pool(image[0, ::2], [2], None)
    torch.testing.assert_close(pooled[0], (weights[0] + weights[1]) / 2)


def test_peers_do_not_see_what_stands_in_absent_months() -> None:
    if find_spec("torchgeo") is None:
        pytest.skip("the extra 'benchmarks' is not installed: torchgeo")
    from recipe_peers import Concatenated, Peer, Recurrent, YearlyMedian

    torch.manual_seed(0)
    decoder = (16, 12, 8, 8, 8)
    bodies = [
        Concatenated("resnet10t", decoder, 3, 2),
        YearlyMedian("resnet10t", decoder, 3),
        Recurrent(3, 4),
    ]
    image = torch.randn(2, 2, 3, 32, 32)
    image[0, 1, :, 3, 4] = torch.nan
    present = torch.tensor([[True, True], [True, False]])
    other = image.clone()
    other[1, 1] = 7.0
    for body in bodies:
        peer = Peer(body, 3).eval()
        peer.set_statistics([1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [60.0], [70.0])
        result = peer(image, present)
        assert result.shape == (2, 1, 32, 32)
        assert result.isfinite().all()
        assert torch.equal(result, peer(other, present))
        assert not torch.equal(result, peer(image))


METER = """
import torch
from recipe_runs import Meter

network = torch.nn.Linear(1000, 1000)
meter = Meter(network)
batch = torch.ones(20_000, 1000)
for _ in range(4):
    network(batch).sum().backward()
network.eval()
network(batch)
print(json.dumps(meter.figures()))
"""


@pytest.mark.slow
def test_memory_and_time_of_steps_are_seen() -> None:
    # In its own process, as runs are measured: here, memory that other tests freed
    # could be used again, and the peak would not rise.
    result = subprocess.run(
        [sys.executable, "-c", f"import json{METER}"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    figures = json.loads(result.stdout)
    assert figures["steps"] == 4
    assert 0 < figures["core_s_a_step"] < 10
    assert 0 < figures["wall_s_a_step"] < 10
    # An output of 20,000 x 1000 floats is eighty megabytes.
    assert 80 <= figures["peak_mb"] < 800


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_tall_forest_costs_is_printed(
    chips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import tall_forest

    tall_forest.main(["--quick", "--markdown", "--folder", str(chips)])
    rows = tables(capsys.readouterr().out)
    assert rows[0]["strength"] == "as it is"
    assert [float(row["strength"]) for row in rows[1:3]] == [0, 100]
    biases = [float(row["bias at 300 and more"]) for row in rows[1:]]
    assert biases == sorted(biases)  # a stronger curve lifts tall forest
