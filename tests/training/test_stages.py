"""Training in stages: each goes on where the one before ended."""

import dataclasses
import json
import math

import pytest
import torch
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
)
from variants import variants

from geobiomass.training import (
    RegressionTask,
    Stage,
    TrainingConfig,
    check_folder,
    train,
    train_stages,
)
from geobiomass.training.metrics import PixelRMSE
from geobiomass.training.weights import MovingAverage, read_checkpoint, read_weights

LONG = Stage(name="long", epochs=3, learning_rate=1e-2, final_learning_rate=1e-3)
COOL = Stage(name="cool-down", epochs=2, learning_rate=1e-3, warmup_epochs=0.5)
ALL = Stage(
    name="all", epochs=2, learning_rate=5e-4, schedule_by="epoch", everything=True
)
STAGES = (LONG, COOL, ALL)
FOLDERS = ("1-long", "2-cool-down", "3-all")


def make_task():
    return RegressionTask(network(), mse, {"rmse": PixelRMSE()}, jitter)


def train_all(folder=None, source=None, stages=STAGES, task=None, **changes):
    task = task or make_task()
    whole = config(folder=folder, **changes)
    source = StopAt(*NEVER) if source is None else source
    plans = [
        (
            stage.name,
            stage.configure(whole),
            source,
            None if stage.everything else batches(2, seed=9),
        )
        for stage in stages
    ]
    result = train_stages(task, plans)
    return task.network.state_dict(), result


def learning_rates(stage, folder=None):
    plan = stage.configure(config(folder=folder))
    return [plan.learning_rate_at(e, STEPS - 1, STEPS) for e in range(stage.epochs)]


def test_the_history_has_a_row_an_epoch_of_every_stage(tmp_path):
    _, result = train_all(tmp_path)
    history = result.history
    assert history.columns[0] == "stage"
    assert history.stage.tolist() == ["long"] * 3 + ["cool-down"] * 2 + ["all"] * 2
    assert history.epoch.tolist() == [1, 2, 3, 1, 2, 1, 2]
    expected = [rate for stage in STAGES for rate in learning_rates(stage)]
    assert history.learning_rate.tolist() == pytest.approx(expected)
    assert history.validation_loss.isna().tolist() == [False] * 5 + [True] * 2
    assert result.epochs == 7
    assert {file.name for file in tmp_path.iterdir()} == set(FOLDERS)
    assert result.last == tmp_path / "3-all" / "last.ckpt"
    assert result.best is None


def test_epochs_of_the_feed_count_on():
    source = StopAt(*NEVER)
    train_all(source=source)
    assert source.read == [(epoch, step) for epoch in range(7) for step in range(STEPS)]


def adamw_by_hand(stages, source):
    """Weights, updates and average of plain PyTorch, one AdamW for all stages."""
    net = torch.nn.Linear(3, 1)
    torch.nn.init.constant_(net.weight, 0.1)
    torch.nn.init.zeros_(net.bias)
    optimizer = torch.optim.AdamW(
        [
            {"params": [net.weight], "weight_decay": 1e-2},
            {"params": [net.bias], "weight_decay": 0.0},
        ]
    )
    average = MovingAverage(net, 0.9)
    done = 0
    for stage in stages:
        plan = stage.configure(config())
        for epoch in range(stage.epochs):
            for step, (x, y) in enumerate(source.epoch(done, 0, 1)):
                for group in optimizer.param_groups:
                    group["lr"] = plan.learning_rate_at(epoch, step, STEPS)
                optimizer.zero_grad()
                mse(net(x), y).backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
                optimizer.step()
                average.update(net)
            done += 1
    return net.state_dict(), average


def test_weights_optimiser_and_average_go_on_as_in_one_loop(tmp_path):
    net = torch.nn.Linear(3, 1)
    torch.nn.init.constant_(net.weight, 0.1)
    torch.nn.init.zeros_(net.bias)
    task = RegressionTask(net, mse)
    averaged, result = train_all(tmp_path, task=task, moving_average=0.9)
    weights, average = adamw_by_hand(STAGES, StopAt(*NEVER))
    last = read_checkpoint(result.last)
    assert last["geobiomass"]["moving_average"]["updates"] == 7 * STEPS
    for name, value in weights.items():
        learnt = last["state_dict"][f"network.{name}"]
        torch.testing.assert_close(learnt, value, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(averaged[name], average.weights[name])


def test_noise_does_not_repeat_between_stages():
    seen = []

    def note(inputs, target):
        seen.append(torch.rand(1).item())
        return inputs, target

    train_all(task=RegressionTask(network(), mse, augment=note))
    assert len(set(seen)) == len(seen) == 7 * STEPS


@variants("place", [(3, 0), (4, 3), (1, 2), (6, 4)], quick=2)
@variants("minutes", [0, None], quick=1)
@variants("average", [0.9, None], quick=1)
def test_interrupted_and_resumed_is_uninterrupted_to_the_bit(
    tmp_path, place, minutes, average
):
    settings = {"moving_average": average, "keep_best": 2}
    with pytest.raises(RuntimeError, match="stop here"):
        train_all(
            tmp_path,
            StopAt(*place, RuntimeError),
            **settings,
            checkpoint_minutes=minutes,
        )
    rest = StopAt(*NEVER)
    resumed = train_all(tmp_path, rest, **settings)
    whole = [(e, s) for e in range(7) for s in range(STEPS)]
    begin = place if minutes == 0 else (place[0], 0)
    assert rest.read == whole[whole.index(begin) :]
    assert_same(train_all(**settings), resumed)


def test_interrupted_before_the_second_stage_writes_anything(tmp_path):
    with pytest.raises(RuntimeError, match="stop here"):
        train_all(tmp_path, StopAt(3, 0, RuntimeError))
    assert (tmp_path / "1-long" / "last.ckpt").exists()
    assert not (tmp_path / "2-cool-down" / "last.ckpt").exists()
    assert_same(train_all(), train_all(tmp_path))


def test_finished_stages_are_read_and_not_trained(tmp_path):
    done = train_all(tmp_path)
    again = StopAt(*NEVER)
    assert_same(done, train_all(tmp_path, again))
    assert again.asked == []


def test_a_folder_may_be_moved(tmp_path):
    with pytest.raises(RuntimeError, match="stop here"):
        train_all(tmp_path / "old", StopAt(4, 1, RuntimeError))
    (tmp_path / "old").rename(tmp_path / "new")
    assert_same(train_all(), train_all(tmp_path / "new"))


def test_a_stage_begins_with_the_last_weights_not_the_best(tmp_path):
    # Held out is the opposite of what is learnt: the first epoch is the best.
    opposite = [(x, -y) for x, y in batches(2, seed=9)]
    still = dataclasses.replace(COOL, learning_rate=1e-12, epochs=1, warmup_epochs=0.0)
    plans = [
        (stage.name, stage.configure(config(folder=tmp_path)), batches(), opposite)
        for stage in (LONG, still)
    ]
    result = train_stages(make_task(), plans)
    first = result.history[result.history.stage == "long"]
    assert first.validation_loss.idxmin() == 0
    before = read_weights(tmp_path / "1-long" / "last.ckpt")
    after = read_weights(tmp_path / "2-cool-down" / "last.ckpt")
    for name, value in before.items():
        if "weight" in name or "bias" in name:
            torch.testing.assert_close(after[name], value, rtol=1e-6, atol=1e-7)


def test_one_stage_is_a_plain_training(tmp_path):
    weights, result = train_all(tmp_path / "staged", stages=(LONG,))
    task = make_task()
    plan = LONG.configure(config(folder=tmp_path / "plain"))
    expected = train(task, StopAt(*NEVER), batches(2, seed=9), plan)
    assert_same((task.network.state_dict(), expected), (weights, result))
    names = [
        {file.name for file in (tmp_path / kind).iterdir()}
        for kind in ("staged", "plain")
    ]
    assert names[0] == names[1]
    assert result.last == tmp_path / "staged" / "last.ckpt"


def test_resume_false_starts_all_stages_anew(tmp_path):
    train_all(tmp_path, seed=1)
    source = StopAt(*NEVER)
    assert_same(train_all(), train_all(tmp_path, source, resume=False))
    assert len(source.read) == 7 * STEPS


def changed(position, **changes):
    stages = list(STAGES)
    stages[position] = dataclasses.replace(stages[position], **changes)
    return tuple(stages)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (changed(0, learning_rate=1.0), r"1-long.*learning_rate was 0\.01 and is 1\.0"),
        (changed(1, epochs=4), r"2-cool-down.*epochs was 2 and is 4"),
        (changed(1, name="warm"), "stage 2 in .* must be 'warm', got one in 2-cool"),
        (STAGES[:1] + STAGES[2:], "stage 2 in .* must be 'all', got one in 2-cool"),
    ],
)
def test_a_stage_with_other_settings_is_refused_before_training(
    tmp_path, stages, message
):
    with pytest.raises(RuntimeError, match="stop here"):
        train_all(tmp_path, StopAt(4, 0, RuntimeError))
    source = StopAt(*NEVER)
    with pytest.raises(ValueError, match=message):
        train_all(tmp_path, source, stages)
    assert source.asked == []


GIVEN = {"loss": "mse", "data": ("rows", 26)}


@pytest.mark.parametrize("stages", [(LONG,), STAGES])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"loss": "mae"},
            "got others: loss was 'mse' and is 'mae'. Give another folder",
        ),
        (
            {"data": ("rows", 27)},
            r"data was \['rows', 26\] and is \['rows', 27\]\. Give",
        ),
    ],
)
def test_what_was_given_must_be_the_same_and_is_checked_beforehand(
    tmp_path, stages, change, message
):
    whole = config(folder=tmp_path)
    plans = [(s.name, s.configure(whole), batches(), None) for s in stages]
    settings = [plan[:2] for plan in plans]
    check_folder(network(), settings, given=GIVEN)
    assert not list(tmp_path.iterdir())
    train_stages(make_task(), plans, given=GIVEN)
    before = {f: f.read_bytes() for f in tmp_path.rglob("*.*") if f.is_file()}
    for call, what, plan in (
        (check_folder, network, settings),
        (train_stages, make_task, plans),
    ):
        with pytest.raises(ValueError, match=message):
            call(what(), plan, given=GIVEN | change)
        # What only one of them says is not compared.
        call(what(), plan, given={"loss": "mse", "more": 1})
        call(what(), plan)
    assert {f: f.read_bytes() for f in before} == before
    again = [(n, dataclasses.replace(c, resume=False), b, v) for n, c, b, v in plans]
    check_folder(network(), [plan[:2] for plan in again], given=GIVEN | change)
    train_stages(make_task(), again, given=GIVEN | change)
    with pytest.raises(ValueError, match=r"was .* and is"):
        check_folder(network(), settings, given=GIVEN)


def test_a_stage_that_begins_elsewhere_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="stop here"):
        train_all(tmp_path, StopAt(4, 0, RuntimeError), schedule="constant")
    longer = changed(0, epochs=4)  # allowed for itself under a constant rate
    with pytest.raises(ValueError, match=r"2-cool-down.*start was .*'epochs': 3"):
        train_all(tmp_path, stages=longer, schedule="constant")


def test_a_single_trainings_folder_is_not_one_of_stages(tmp_path):
    train_all(tmp_path, stages=(LONG,))
    with pytest.raises(ValueError, match="with one of a single stage"):
        train_all(tmp_path)


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "nine ten"])
def test_a_name_must_be_fit_for_a_folder(name):
    with pytest.raises(ValueError, match="name of a Stage must"):
        Stage(name=name, epochs=1, learning_rate=1e-3)
    with pytest.raises(ValueError, match="name of a Stage must"):
        train_stages(make_task(), [(name, config(), batches(), None)])


def test_bad_stages_are_named(tmp_path):
    with pytest.raises(ValueError, match="epochs of TrainingConfig must be"):
        Stage(name="x", epochs=0, learning_rate=1e-3)
    with pytest.raises(ValueError, match="at least one, got 0"):
        train_stages(make_task(), [])
    with pytest.raises(ValueError, match="must differ, got long, long"):
        train_all(stages=(LONG, LONG))
    plans = [(n, config(folder=tmp_path / n), batches(), None) for n in "ab"]
    with pytest.raises(ValueError, match=r"must have the same folder, got .*a, .*b"):
        train_stages(make_task(), plans)


def test_a_start_must_be_finished_and_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint to start from"):
        train(make_task(), batches(), None, config(), start=tmp_path / "last.ckpt")
    plan = config(folder=tmp_path)
    with pytest.raises(RuntimeError, match="stop here"):
        train(make_task(), StopAt(2, 0, RuntimeError), None, plan)
    with pytest.raises(ValueError, match=r"finished training, got .* 2 of 4 epochs"):
        train(make_task(), batches(), None, config(), start=tmp_path / "last.ckpt")
    train(make_task(), StopAt(*NEVER), None, plan)
    wide = RegressionTask(network(9), mse)
    with pytest.raises(ValueError, match=r"0\.weight is \(8, 3\) and not \(9, 3\)"):
        train(wide, batches(), None, config(), start=tmp_path / "last.ckpt")
    frozen = make_task()
    frozen.network[0].weight.requires_grad = False
    with pytest.raises(ValueError, match="start must be a training of the same param"):
        train(frozen, batches(), None, config(), start=tmp_path / "last.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="must be a checkpoint of this trainer"):
        train(make_task(), batches(), None, config(), start=tmp_path / "other.ckpt")


def test_a_stages_weight_decay_is_its_own(tmp_path):
    train(make_task(), batches(), None, config(folder=tmp_path / "a"))
    plan = config(folder=tmp_path / "b", weight_decay=0.5)
    train(make_task(), batches(), None, plan, start=tmp_path / "a" / "last.ckpt")
    groups = read_checkpoint(tmp_path / "b" / "last.ckpt")["optimizer_states"][0]
    assert [group["weight_decay"] for group in groups["param_groups"]] == [0.5, 0.0]


def test_a_stage_is_plain_data():
    plain = json.loads(json.dumps(dataclasses.asdict(COOL)))
    assert Stage(**plain) == COOL
    changed = COOL.configure(TrainingConfig(seed=5, keep="best"))
    assert (changed.epochs, changed.seed, changed.keep) == (2, 5, "best")
    assert ALL.configure(TrainingConfig()).keep == "last"
    assert math.isclose(changed.learning_rate, 1e-3)
