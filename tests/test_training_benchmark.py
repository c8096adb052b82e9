"""The benchmark of a training step runs, and its plain form is the same network."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    threads = torch.get_num_threads()
    yield importlib.import_module("training")
    torch.set_num_threads(threads)


@pytest.mark.parametrize("part", [None, "packed", "attention", "channels_last"])
@pytest.mark.slow
def test_the_plain_form_gives_what_the_network_gives(
    training: Any, part: str | None
) -> None:
    network = training.network_of("quick").eval()
    parts = training.Parts(**({part: True} if part else {}))
    plain = training.PlainUNet(network, parts).eval()
    codes, _ = training.batch_of(32, 2, ("1" * 12,))
    with torch.inference_mode():
        torch.testing.assert_close(
            plain(codes * 0.01), network(codes * 0.01), atol=1e-2, rtol=1e-4
        )


def test_bytes_are_counted_while_they_live_computed_or_not(training: Any) -> None:
    def peaks() -> tuple[int, int]:
        with training.Live() as live:
            one = torch.zeros(1000)
            two = one + 1  # 8,000 bytes
            del one
            view = two[:10]
            now = live.now
            del two, view
            assert live.now == 0
        return now, live.peak

    assert peaks() == (4000, 8000)
    with training.FakeTensorMode():
        assert peaks() == (4000, 8000)


@pytest.mark.slow
def test_groups_of_months_take_less_memory(training: Any) -> None:
    whole = training.memory_of("quick", 64, 2, None, bf16=False)
    groups = training.memory_of("quick", 64, 2, 3, bf16=False)
    assert groups[0] < 0.8 * whole[0]
    assert groups[1] < whole[1]


@pytest.mark.slow
def test_the_winners_setting_fits_in_40_gb(training: Any) -> None:
    # A quarter is left for the memory of kernels.
    assert training.memory_of("biomassters", 256, 8, 6, bf16=True)[1] < 30e9


@pytest.mark.slow
def test_every_part_has_its_row(
    training: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["training.py", "--quick", "--markdown"])
    training.main()
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    names = [row[0] for row in cells]
    parts = list(training.NAMES.values())
    steps = ["plain", *parts, *(f"+ {name}" for name in parts[1:])]
    ours = ["geobiomass, float32", "geobiomass, bf16"]
    assert names[:13] == ["step", *steps, *ours]
    assert all(float(cell) > 0 for row in cells[1:13] for cell in row[1:])
    losses = {row[0]: float(row[-1]) for row in cells if row[0] in ("plain", *ours)}
    assert losses["plain"] == 0
    assert losses["geobiomass, float32"] < 1e-4
    assert names[-7:] == ["None", "None", "6", "4", "3", "2", "1"]
