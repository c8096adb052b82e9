"""SIGTERM, within this process: what is saved, and that the rest ends the same."""

import os
import pickle
import signal
import threading

import pytest
from small_training import (
    NEVER,
    STEPS,
    StopAt,
    assert_same,
    batches,
    config,
    jitter,
    mse,
    network,
    one_thread,  # noqa: F401  (a fixture for every test here)
    run,
)
from test_stages import train_all
from variants import variants

from geobiomass.training import RegressionTask, TrainingInterrupted, core
from geobiomass.training.checkpoints import CheckpointWriter
from geobiomass.training.interruption import Termination
from geobiomass.training.metrics import PixelRMSE


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


class TermAt(StopAt):
    """Batches before one of which SIGTERM comes."""

    def __init__(self, epoch, step):
        super().__init__(*NEVER)
        self.at = epoch, step

    def epoch(self, number, rank, ranks, start=0):
        for step, batch in enumerate(super().epoch(number, rank, ranks, start), start):
            if (number, step) == self.at:
                terminate()
            yield batch


class TermInValidation:
    """Validation in which SIGTERM comes before one of its two batches."""

    def __init__(self, epoch, batch):
        self.epochs, self.at, self.given = -1, (epoch, batch), []

    def batches_per_epoch(self, ranks):
        return 2

    def epoch(self, number, rank, ranks, start=0):
        self.epochs += 1
        for index, batch in enumerate(batches(2, seed=9)):
            self.given.append((self.epochs, index))
            if (self.epochs, index) == self.at:
                terminate()
            yield batch


def rest_of(epochs, place):
    whole = [(e, s) for e in range(epochs) for s in range(STEPS)]
    return whole[whole.index(place) + 1 :]


@variants("place", [(0, 0), (2, 4), (1, 2), (3, 3)], quick=2)
@pytest.mark.parametrize(
    ("average", "minutes"), [(None, None), (0.9, None), (0.9, 10.0)]
)
def test_the_running_step_is_finished_and_saved(
    tmp_path, capsys, place, average, minutes
):
    handler = signal.getsignal(signal.SIGTERM)
    settings = {"moving_average": average, "keep_best": 2}
    broken = TermAt(*place)
    with pytest.raises(TrainingInterrupted, match="SIGTERM") as caught:
        run(tmp_path, broken, checkpoint_minutes=minutes, **settings)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert caught.value.code == 143
    said = capsys.readouterr().err
    assert said == f"{caught.value}\n"
    assert f"after step {place[1] + 1} of epoch {place[0] + 1}" in said
    assert f"the same command continues from there, with {tmp_path}" in said
    rest = StopAt(*NEVER)
    resumed = run(tmp_path, rest, **settings)
    assert rest.read == rest_of(4, place)
    assert_same(run(**settings), resumed)


@variants("epoch", [2, 3, 0], quick=2)
@variants("batch", [1, 0], quick=1)
@variants("average", [0.9, None], quick=1)
def test_validation_is_done_again_from_its_beginning(tmp_path, epoch, batch, average):
    settings = {"moving_average": average, "keep_best": 2}
    broken, held = StopAt(*NEVER), TermInValidation(epoch, batch)
    with pytest.raises(TrainingInterrupted):
        run(tmp_path, broken, held, checkpoint_minutes=None, **settings)
    # Lightning takes a batch ahead, so that the one after may have been read.
    assert held.given[-1][0] == epoch
    assert broken.read == [(e, s) for e in range(epoch + 1) for s in range(STEPS)]
    rest = StopAt(*NEVER)
    resumed = run(tmp_path, rest, **settings)
    assert rest.read == rest_of(4, (epoch, STEPS - 1))
    assert_same(run(**settings), resumed)


def test_the_same_task_may_go_on_after_it(tmp_path):
    plan = config(folder=tmp_path, moving_average=0.9)
    task = RegressionTask(network(), mse, {"rmse": PixelRMSE()}, jitter, plan)
    with pytest.raises(TrainingInterrupted):
        run(validation=TermInValidation(1, 0), task=task)
    assert_same(run(moving_average=0.9), run(task=task))


def test_without_validation_the_last_step_of_an_epoch_is_saved(tmp_path):
    with pytest.raises(TrainingInterrupted):
        run(tmp_path, TermAt(1, STEPS - 1), [])
    rest = StopAt(*NEVER)
    resumed = run(tmp_path, rest, [])
    assert rest.read == rest_of(4, (1, STEPS - 1))
    assert_same(run(validation=[]), resumed)


def test_without_a_folder_it_says_that_nothing_is_kept():
    with pytest.raises(TrainingInterrupted, match="nothing is kept, as `folder`"):
        run(source=TermAt(1, 2))


def test_the_last_epoch_is_finished_before_it_ends(tmp_path, monkeypatch):
    real = CheckpointWriter._row

    def row(writer, trainer):
        if writer.record.epochs == 3:
            terminate()
        return real(writer, trainer)

    monkeypatch.setattr(CheckpointWriter, "_row", row)
    with pytest.raises(TrainingInterrupted, match="at the end of the training"):
        run(tmp_path)
    monkeypatch.undo()
    again = StopAt(*NEVER)
    assert_same(run(), run(tmp_path, again))
    assert again.asked == []


@variants("place", [(2, 4), (3, 0), (1, 3), (5, 2)], quick=2)
def test_stages_stop_and_go_on(tmp_path, place):
    with pytest.raises(TrainingInterrupted):
        train_all(tmp_path, TermAt(*place), moving_average=0.9)
    rest = StopAt(*NEVER)
    resumed = train_all(tmp_path, rest, moving_average=0.9)
    assert rest.read == rest_of(7, place)
    assert_same(train_all(moving_average=0.9), resumed)


def test_between_stages_nothing_more_is_trained(tmp_path, monkeypatch):
    real = core.load_kept_weights

    def restore(*arguments):
        terminate()  # the first stage is finished
        real(*arguments)

    monkeypatch.setattr(core, "load_kept_weights", restore)
    source = StopAt(*NEVER)
    with pytest.raises(TrainingInterrupted, match="after its start"):
        train_all(tmp_path, source)
    monkeypatch.undo()
    assert source.read == [(e, s) for e in range(3) for s in range(STEPS)]
    assert_same(train_all(), train_all(tmp_path))


def test_in_another_thread_training_goes_without_handlers(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(run(tmp_path)))
    thread.start()
    thread.join()
    assert_same(run(), results[0])


def test_the_exception_survives_a_pickle():
    error = pickle.loads(pickle.dumps(TrainingInterrupted("stopped here")))
    assert (str(error), error.code) == ("stopped here", 143)


def test_lightnings_own_handler_is_not_in_force():
    # It broadcasts, in the middle of whatever the processes are at.
    found = []

    class Look(StopAt):
        def epoch(self, number, rank, ranks, start=0):
            found.append(signal.getsignal(signal.SIGTERM).__self__)
            yield from super().epoch(number, rank, ranks, start)

    run(source=Look(*NEVER))
    assert [type(owner) for owner in found] == [Termination] * 4
