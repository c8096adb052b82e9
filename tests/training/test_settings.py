import pytest
import torch

from geobiomass.training import TrainingConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", 2.5),
        ("epochs", True),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("weight_decay", -1e-2),
        ("schedule", "linear"),
        ("schedule_by", "batch"),
        ("warmup_epochs", 20),
        ("final_learning_rate", 1.0),
        ("gradient_clip", 0.0),
        ("precision", "half"),
        ("accelerator", "tpu"),
        ("devices", 0),
        ("devices", "all"),
        ("seed", -1),
        ("moving_average", 1.0),
        ("checkpoint_minutes", -1),
        ("checkpoint_minutes", float("nan")),
        ("checkpoint_minutes", float("inf")),
        ("keep", "first"),
        ("keep_best", 0),
        ("keep_last", -1),
        ("monitor", "train_loss"),
        ("monitor", ()),
    ],
)
def test_a_bad_setting_is_named_with_its_value(name, value):
    with pytest.raises(
        ValueError, match=rf"^{name} of TrainingConfig must be"
    ) as caught:
        TrainingConfig(**{name: value})
    assert str(caught.value).endswith(f"got {value!r}")


def test_half_precision_on_the_cpu_is_refused():
    config = TrainingConfig(precision="fp16", accelerator="cpu")
    with pytest.raises(ValueError, match=r"precision.*'fp16'.*CUDA"):
        _ = config.numbers
    assert TrainingConfig(accelerator="cpu").numbers == "float32"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_without_cuda_is_refused():
    with pytest.raises(ValueError, match="no CUDA device"):
        _ = TrainingConfig(accelerator="cuda").device


def rates_of_pytorch(scheduler, count):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    plan = scheduler(optimizer)
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plan.step()
    return rates


@pytest.mark.parametrize("by", ["step", "epoch"])
def test_the_cosine_is_pytorchs(by):
    epochs, steps = 6, 5
    config = TrainingConfig(
        epochs=epochs, learning_rate=0.2, final_learning_rate=0.01, schedule_by=by
    )
    ticks = epochs * (steps if by == "step" else 1)
    expected = rates_of_pytorch(
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, ticks, 0.01), ticks
    )
    for epoch in range(epochs):
        for step in range(steps):
            tick = epoch * steps + step if by == "step" else epoch
            rate = config.learning_rate_at(epoch, step, steps)
            assert rate == pytest.approx(expected[tick])


def test_the_warmup_rises_evenly_to_the_full_rate():
    config = TrainingConfig(
        epochs=4, learning_rate=0.3, schedule="constant", warmup_epochs=1.5
    )
    rates = [config.learning_rate_at(e, s, 2) for e in range(4) for s in range(2)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3])


def test_the_cosine_starts_after_the_warmup():
    config = TrainingConfig(epochs=5, learning_rate=0.3, warmup_epochs=1)
    assert config.learning_rate_at(0, 0, 3) == pytest.approx(0.1)
    assert config.learning_rate_at(1, 0, 3) == pytest.approx(0.3)
    assert config.learning_rate_at(3, 0, 3) == pytest.approx(0.15)
