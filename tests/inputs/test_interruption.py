"""Ctrl-C in a training without a folder: what is kept, and how it goes on."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import geobiomass as gb
import pasture
from geobiomass.network import AttentionUNet
from geobiomass.training.interruption import Termination, defer_termination
from pasture.loader import PhotoLoader
from pasture.network import PastureNetwork
from tests.pasture.pasture_files import SMALL, draw_photos, one_thread

GOES_ON = re.compile(
    r"training stopped after (?P<place>.*); the last weights are kept, and the same "
    r"call with folder='(?P<folder>[^']*)' continues from there"
    r"(\.\nA usable model, (?P<state>.*): model = (?P<load>.*))?"
)


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep temporary folders of interrupted trainings within the test's folder."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with one_thread():
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("photos")
    return pasture.read_photos(draw_photos(folder), folder)


class SignalAt:
    """A hook on a module's forward passes in training that sends SIGINT once."""

    def __init__(self, call: int, times: int = 1) -> None:
        self.calls, self.call, self.times = 0, call, times

    def __call__(self, module: torch.nn.Module, *_: Any) -> None:
        self.calls += module.training
        if module.training and self.calls == self.call:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


def interrupted(call: Any, kind: type[torch.nn.Module], at: SignalAt) -> re.Match[str]:
    """Return the parts of the message of a call that is interrupted."""

    def hook(module: torch.nn.Module, inputs: Any) -> None:
        if isinstance(module, kind):
            at(module)

    handle = torch.nn.modules.module.register_module_forward_pre_hook(hook)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            call()
    finally:
        handle.remove()
    assert signal.getsignal(signal.SIGINT) is before
    found = GOES_ON.fullmatch(str(caught.value))
    assert found, caught.value
    return found


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=0, atol=0)


SETTINGS: dict[str, Any] = {**SMALL, "epochs": 2, "batch_size": 4, "validation": 0}


@pytest.mark.parametrize(
    ("call", "place"),
    [(4, "step 1 of epoch 2"), (1, "step 1 of epoch 1"), (2, "step 2 of epoch 1")],
)
@pytest.mark.slow
def test_pasture_keeps_the_last_step(photos, capsys, call, place) -> None:
    at = SignalAt(call)
    kept = interrupted(lambda: pasture.fit(photos, **SETTINGS), PastureNetwork, at)
    assert kept["place"] == place
    assert "stops after this step" in capsys.readouterr().err
    whole = pasture.fit(photos, **SETTINGS)
    rest = pasture.fit(photos, **SETTINGS, folder=kept["folder"])
    same_weights(whole.network, rest.network)
    assert whole.recipe.training.folder is None
    assert kept["load"] == f"pasture.load('{kept['folder']}/interrupted')"
    usable = eval(kept["load"])
    assert usable.interrupted == f"interrupted at {place} of 2" == kept["state"]
    assert usable.interrupted in repr(usable)
    assert usable.history.attrs["interrupted"] == usable.interrupted
    assert len(usable.history) == (call == 4)
    card = Path(kept["folder"], "interrupted", "README.md").read_text()
    assert f"**Not fully trained**: {usable.interrupted}." in card
    assert np.isfinite(usable.predict(photos)).all(axis=None)
    again = Path(kept["folder"]) / "again"
    rest.save(again)
    assert rest.interrupted == pasture.load(again).interrupted == ""


@pytest.mark.slow  # single models are quick
def test_members_and_streams_go_on(photos) -> None:
    folds = pd.Series(np.arange(12) % 4 // 2, photos.index)

    def fit(**more: Any) -> Any:
        settings = {**SMALL, "epochs": 1, "batch_size": 4}
        return pasture.fit(photos, stream="both", folds=folds, **settings, **more)

    # Of four members with two steps each, the third stops after its first step.
    kept = interrupted(fit, PastureNetwork, SignalAt(5))
    assert kept["place"] == "step 1 of epoch 1 of dual/fold-1"
    usable = eval(kept["load"])
    assert usable.interrupted == "interrupted: 2 of 4 members"
    assert usable.interrupted in repr(usable)
    whole, rest = fit(), fit(folder=kept["folder"])
    same_weights(usable.members[1].network, whole.members[1].network)
    for one, other in zip(whole.members, rest.members, strict=True):
        same_weights(one.network, other.network)
        assert one.recipe.training.folder is None


@pytest.mark.slow
def test_an_adaptation_goes_on(photos) -> None:
    train, test = photos.iloc[:8], photos.iloc[8:]
    model = pasture.fit(train, **SETTINGS)

    def adapt(**more: Any) -> Any:
        return pasture.adapt(model, train, test, epochs=2, last=1, **more)

    kept = interrupted(adapt, PastureNetwork, SignalAt(4))
    assert kept["load"] is None  # the model that is adapted is still there
    same_weights(adapt().second.network, adapt(folder=kept["folder"]).second.network)


@pytest.mark.slow
def test_validation_is_finished_or_done_again(photos) -> None:
    settings = {**SETTINGS, "validation": 0.25, "epochs": 2}

    class InValidation(SignalAt):
        def __call__(self, module: torch.nn.Module, *_: Any) -> None:
            self.calls += not module.training
            if not module.training and self.calls == self.call:
                os.kill(os.getpid(), signal.SIGINT)

    kept = interrupted(
        lambda: pasture.fit(photos, **settings), PastureNetwork, InValidation(1)
    )
    assert kept["place"] in ("step 3 of epoch 1", "step 2 of epoch 1")
    whole = pasture.fit(photos, **settings)
    rest = pasture.fit(photos, **settings, folder=kept["folder"])
    same_weights(whole.network, rest.network)


def test_between_steps_it_stops_at_once_and_keeps_them(photos, monkeypatch) -> None:
    real = PhotoLoader._batch
    calls = iter(range(100))

    def wait(self: PhotoLoader, *batch: Any) -> Any:
        if next(calls) == 2:  # reading the batch of the third step
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)
        return real(self, *batch)

    monkeypatch.setattr(PhotoLoader, "_batch", wait)
    begun = time.monotonic()
    kept = interrupted(
        lambda: pasture.fit(photos, **SETTINGS), PastureNetwork, SignalAt(0)
    )
    assert time.monotonic() - begun < 20
    monkeypatch.undo()
    assert kept["place"] in ("step 2 of epoch 1", "step 1 of epoch 1")
    whole = pasture.fit(photos, **SETTINGS)
    rest = pasture.fit(photos, **SETTINGS, folder=kept["folder"])
    same_weights(whole.network, rest.network)


def test_twice_it_stops_within_the_step(photos) -> None:
    """What is kept is then the last epoch; before it, nothing is left behind."""
    kept = interrupted(
        lambda: pasture.fit(photos, **SETTINGS), PastureNetwork, SignalAt(5, times=2)
    )
    assert kept["place"] == "epoch 1"
    before = set(Path(tempfile.gettempdir()).iterdir())
    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, _: (
            SignalAt(1, 2)(module) if isinstance(module, PastureNetwork) else None
        )
    )
    try:
        with pytest.raises(KeyboardInterrupt, match="first step; nothing is kept"):
            pasture.fit(photos, **SETTINGS)
    finally:
        handle.remove()
    assert set(Path(tempfile.gettempdir()).iterdir()) == before


def test_a_folder_of_the_user_is_named_too(photos, tmp_path) -> None:
    kept = interrupted(
        lambda: pasture.fit(photos, **SETTINGS, folder=tmp_path / "run"),
        PastureNetwork,
        SignalAt(2),
    )
    assert kept["folder"] == str(tmp_path / "run")


def test_nothing_is_left_of_what_ends_or_fails(photos) -> None:
    pasture.fit(photos, **SETTINGS)
    with pytest.raises(FloatingPointError):
        pasture.fit(photos, **SETTINGS, learning_rate=1e30, gradient_clip=None)
    assert not list(Path(tempfile.gettempdir()).iterdir())


# --- maps: the same core ---

FOREST: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 2,
    "crop": 32,
    "block": 32,
    "encoder": "test_resnet",
    "decoder_channels": (16, 16, 16, 16, 16),
    "progress": False,
    "accelerator": "cpu",
}


@pytest.fixture(scope="module")
def cube() -> Any:
    return gb.landscape(96, months=2, seed=0)


@pytest.mark.parametrize(
    ("folds", "call", "state"),
    [
        (None, 5, "interrupted at step 1 of epoch 2 of 2"),
        pytest.param(2, 6, "interrupted: 1 of 2 members", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_a_forest_goes_on(cube, folds, call, state, capsys) -> None:
    def fit(**more: Any) -> Any:
        return gb.fit(cube, "quick", folds=folds, **FOREST, **more)

    kept = interrupted(fit, AttentionUNet, SignalAt(call))
    assert re.match(r"step \d+ of epoch \d", kept["place"])
    assert kept["state"] == state
    assert kept["load"] == f"gb.load('{kept['folder']}/interrupted')"
    usable = eval(kept["load"])
    assert usable.interrupted == state
    assert state in repr(usable)
    assert f"**Not fully trained**: the training was {state}." in usable._card()
    for facts in (gb.describe(usable), gb.describe(f"{kept['folder']}/interrupted")):
        assert facts["not fully trained"] == state
    if folds is None:
        assert bool(np.isfinite(usable.predict(cube)["agb"]).all())
    whole, rest = fit(), fit(folder=kept["folder"])
    for one, other in zip(
        getattr(whole, "models", [whole]), getattr(rest, "models", [rest]), strict=True
    ):
        same_weights(one.network, other.network)
        assert one.recipe.training.folder is None


def test_own_handlers_and_ignored_signals_stay() -> None:
    def mine(*_: Any) -> None: ...

    before = signal.getsignal(signal.SIGINT)
    try:
        for handler in (mine, signal.SIG_IGN):
            signal.signal(signal.SIGINT, handler)
            with defer_termination():
                assert signal.getsignal(signal.SIGINT) is handler
            assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_steps_it_raises_at_once() -> None:
    stop = Termination()
    with pytest.raises(KeyboardInterrupt):
        stop._set_interrupted(signal.SIGINT, None)
    stop = Termination()
    stop.in_step = True
    stop._set_interrupted(signal.SIGINT, None)
    assert stop.wanted
    with pytest.raises(KeyboardInterrupt):
        stop._set_interrupted(signal.SIGINT, None)


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import torch
torch.set_num_threads(1)
from pasture.network import PastureNetwork
real = PastureNetwork.forward
def forward(self, image):
    open({sign!r}, "w").close()
    return real(self, image)
PastureNetwork.forward = forward
sys.argv = ["pasture", *{words!r}]
from pasture.cli import main
main()
"""


@pytest.mark.slow
def test_the_command_exits_with_130_and_goes_on(photos, tmp_path, new_process) -> None:
    """A process that gets a real SIGINT, as from Ctrl-C in a terminal."""
    draw_photos(tmp_path).to_csv(tmp_path / "train.csv", index=False)
    words = ["train", "train.csv", "model", "--recipe", "quick", "--epochs", "400"]
    for name in ("backbone=test_vit", "height=32", "width=64", "accelerator=cpu"):
        words += ["--set", name]
    sign = tmp_path / "training"
    root = str(Path(__file__).parents[2])
    script = SCRIPT.format(root=root, sign=str(sign), words=words)
    process = new_process.start("-c", script, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not sign.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command continues" in errors
    assert (tmp_path / "model.checkpoints" / "last.ckpt").is_file()
