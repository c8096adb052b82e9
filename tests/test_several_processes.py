"""gb.fit with two real processes, by a script that starts itself again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_chips, make_scene
from new_process import NewProcesses

import geobiomass as gb
from geobiomass.statistics.conformal import Calibration

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

SCRIPT = """
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from conftest import make_chips

import geobiomass as gb

torch.set_num_threads(1)
out, more = Path(sys.argv[1]), json.loads(sys.argv[2])


def main():
    chips = make_chips(30)
    if "label_shift" in more:  # footprints, a few in each crop
        kept = np.random.default_rng(0).random(chips["agb"].shape) < 0.02
        chips["agb"] = chips["agb"].where(kept)
    model = gb.fit(
        chips,
        "quick",
        encoder="test_resnet",
        decoder_channels=(8, 8, 8, 8, 8),
        batch_size=2,
        crop=32,
        epochs=2,
        devices=2,
        accelerator="cpu",
        progress=False,
        folder=out / "run",
        **more,
    )
    rank = os.environ.get("LOCAL_RANK", "0")
    model.save(out / "model")
    model.save(out / f"model-{rank}")
    said = {
        "calibration": model.calibration and model.calibration.to_dict(),
        "domain": model.domain.fingerprint(),
        "epochs": len(model.history),
    }
    (out / f"said-{rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main()
"""
OURS = ("LOCAL_RANK", "MASTER_PORT", "MASTER_ADDR", "WORLD_SIZE", "NODE_RANK")


CALIBRATED = {"interval": 0.8, "calibration_fraction": 0.5}


def launch(
    out: Path, new_process: NewProcesses, **settings: Any
) -> list[dict[str, Any]]:
    """Run the script to its end; return the report of each process."""
    script = out / "script.py"
    script.write_text(SCRIPT)
    environment = {k: v for k, v in os.environ.items() if k not in OURS}
    folders = (Path(gb.__file__).parent.parent, Path(__file__).parent)
    environment["PYTHONPATH"] = os.pathsep.join(map(str, folders))
    words = (str(script), str(out), json.dumps(settings))
    process = new_process.start(*words, env=environment, devices=2)
    said, errors = process.communicate(timeout=200)
    assert process.returncode == 0, said + errors
    files = sorted(out.glob("said-*.json"))
    return [json.loads(file.read_text()) for file in files]


def test_two_processes_end_with_one_calibrated_model(
    tmp_path: Path, new_process: NewProcesses
) -> None:
    first, second = launch(tmp_path, new_process, **CALIBRATED)
    assert first == second
    calibration = Calibration.from_dict(first["calibration"])
    assert calibration.count == 15
    assert len(calibration.margins) > 1  # by class
    # Whichever of them saved it last, it is the same, and whole.
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
    models = [gb.load(tmp_path / name) for name in ("model", "model-0", "model-1")]
    scene = make_scene(70, 90, seed=9)
    for model in models:
        assert model.calibration == calibration
        assert model.provenance["data"]["training"]["places"] == 13
        found = model.predict(scene).compute()
        known = np.isfinite(found["agb"].values)
        assert known.any()
        ends = [found[f"agb_{end}"].values[known] for end in ("lower", "upper")]
        assert (ends[0] <= found["agb"].values[known]).all()
        assert (found["agb"].values[known] <= ends[1]).all()
        assert model.domain.fingerprint() == first["domain"]
        assert model.domain.samples == 13
        index = model.applicability(scene)
        assert np.isfinite(index["dissimilarity"].values[known]).all()
        for name, value in models[0].network.state_dict().items():
            assert value.equal(model.network.state_dict()[name]), name
    # The calibration starts from the outputs of the network.
    raw = models[0]._bare(make_chips(30)).outputs
    assert list(raw) == ["agb", "agb_lower_raw", "agb_upper_raw"]
    # Again: nothing is trained, and all is as it was.
    before = (tmp_path / "run" / "last.ckpt").stat().st_mtime_ns
    assert launch(tmp_path, new_process, **CALIBRATED) == [first, second]
    assert (tmp_path / "run" / "last.ckpt").stat().st_mtime_ns == before


def test_labels_are_shifted_alike_on_two_processes(
    tmp_path: Path, new_process: NewProcesses
) -> None:
    first, second = launch(tmp_path, new_process, label_shift=1)
    assert first == second
    models = [gb.load(tmp_path / name) for name in ("model-0", "model-1")]
    for name, value in models[0].network.state_dict().items():
        assert value.equal(models[1].network.state_dict()[name]), name
    assert models[0].provenance["shift of labels"]["pixels"] == 1
