"""Tall forest: crops by biomass, balanced labels, a spread of errors, a correction."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import xarray as xr
from conftest import make_chips, make_scene
from hypothesis import given, settings
from hypothesis import strategies as st

import geobiomass as gb
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.data.loader import ChipLoader
from geobiomass.data.reader import Sample
from geobiomass.models import tail_correction
from geobiomass.models.tail_correction import fit_correction
from geobiomass.network import AttentionUNet
from geobiomass.network.rising_curve import RisingCurve
from geobiomass.recipes.datasets import make_loaders
from geobiomass.recipes.objective import loss_of
from geobiomass.recipes.recipe import (
    Recipe,
    find_recipe,
    recipe_from_dict,
    recipe_to_dict,
)
from geobiomass.recipes.tall_forest import MOST_OFTEN, MOST_WEIGHT, fit_balance
from geobiomass.training.losses import beta_nll_loss

TINY: dict[str, Any] = {
    "encoder": "test_resnet",
    "decoder_channels": (8,) * 5,
    "batch_size": 2,
    "crop": 32,
    "epochs": 1,
    "progress": False,
}
HELD = [f"chip{number:03d}" for number in range(4)]
SWITCHES: dict[str, Any] = {
    "crop_sampling": "biomass",
    "balance": 0.5,
    "loss": "beta_nll",
    "tail_correction": True,
}


def rising_chips(count: int = 8) -> xr.Dataset:
    """Chips, each of which has twice the biomass of the one before."""
    chips = make_chips(count)
    factor = xr.DataArray(2.0 ** np.arange(count), dims="chip")
    return chips.assign(agb=(chips["agb"] * factor / 8).astype(np.float32))


# --- which crops are drawn ---


def loader_of(chances: tuple[float, ...] | None, count: int = 12) -> ChipLoader:
    reader = LabelledCube.open(make_chips(count)).reader
    samples = [Sample(reader.whole, chip) for chip in range(count)]
    return ChipLoader(reader, samples, 2, chances=chances)


def test_each_sample_is_drawn_as_often_as_its_chance_says() -> None:
    chances = tuple([1.0] * 11 + [4.0])
    loader = loader_of(chances)
    counts: Counter[Any] = Counter()
    for epoch in range(40):
        drawn = [one for batch in loader.plan(epoch) for one in batch]
        assert len(drawn) == 12
        own = Counter(drawn)
        for sample, chance in zip(loader.samples, chances, strict=True):
            # Rounded down or up in each epoch.
            assert abs(own[sample] - 12 * chance / 15) < 1
        counts += own
    often = counts[loader.samples[-1]]
    assert often == pytest.approx(40 * 12 * 4 / 15, rel=0.1)


def test_drawn_crops_depend_on_seed_and_epoch_alone() -> None:
    loader = loader_of(tuple(range(1, 13)))
    again = loader_of(tuple(range(1, 13)))
    assert loader.plan(3) == again.plan(3)
    assert loader.plan(3) != loader.plan(4)
    # Two processes share what one has.
    shared = [loader.plan(3, rank, 2) for rank in (0, 1)]
    together = Counter(s for part in shared for batch in part for s in batch)
    assert together == Counter(s for batch in loader.plan(3) for s in batch)
    plain = loader_of(None)
    assert Counter(s for batch in plain.plan(0) for s in batch) == Counter(
        plain.samples
    )


@pytest.mark.parametrize("scene", [False, True])
def test_tall_samples_have_higher_chances(scene: bool) -> None:
    cube = make_scene(128, 128) if scene else rising_chips(8)
    recipe = find_recipe("quick", **TINY, block=32, crop_sampling="biomass")
    loader = make_loaders(LabelledCube.open(cube), recipe).training
    chances = loader.chances
    assert chances is not None
    assert np.mean(chances) == pytest.approx(1)
    high = [np.nanpercentile(loader.reader.labels(s), 90) for s in loader.samples]
    order = np.argsort(high)
    assert (np.diff(np.array(chances)[order]) >= 0).all()
    share = np.array([np.mean(np.array(high) >= own) for own in high])
    expected = np.minimum(share**-0.5, MOST_OFTEN)
    np.testing.assert_allclose(chances, expected / expected.mean())
    even = make_loaders(
        LabelledCube.open(cube), recipe.with_changes(crop_sampling="even")
    )
    assert even.training.chances is None
    # Errors are measured, and norms set, on samples as they are.
    assert loader.unweighted().chances is None


def test_held_out_labels_change_neither_chances_nor_weights() -> None:
    cube = rising_chips(8)
    recipe = find_recipe("quick", **TINY, crop_sampling="biomass", balance=0.5)
    wrong = cube.copy(deep=True)
    wrong["agb"][:4] = 900.0
    first, second = (
        make_loaders(LabelledCube.open(one), recipe, HELD) for one in (cube, wrong)
    )
    assert first.training.chances == second.training.chances
    assert first.balance == second.balance
    assert first.balance is not None


# --- which labels weigh more ---


def skewed(count: int = 20_000, seed: int = 0) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).gamma(1.2, 60.0, count)


def test_rare_labels_weigh_more_and_the_mean_is_one() -> None:
    labels = skewed()
    for power in (0.25, 0.5, 1.0):
        balance = fit_balance(labels, power)
        found = balance(torch.from_numpy(labels)).double().numpy()
        assert found.mean() == pytest.approx(1, rel=1e-4)
        assert found.max() < 1.5 * MOST_WEIGHT
        low, high = found[labels < 100], found[labels > 300]
        assert high.min() > low.max()
    # With the power 1 and no cap reached, two ranges as wide weigh the same in all.
    even = np.concatenate([np.linspace(0, 1, 3000), np.linspace(1, 2, 1000)])
    found = fit_balance(even, 1.0)(torch.from_numpy(even)).numpy()
    inner = found[(even > 0.2) & (even < 0.8)].sum()
    assert inner == pytest.approx(found[(even > 1.2) & (even < 1.8)].sum(), rel=0.03)


def test_weights_of_labels_beyond_and_of_none() -> None:
    balance = fit_balance(skewed(), 0.5)
    values = torch.tensor([-1e3, 0.0, torch.nan, 1e6])
    found = balance(values)
    assert found[0] == pytest.approx(balance.weights[0])
    assert found[2] == 1
    assert found[3] == pytest.approx(balance.weights[-1])
    for alike in (np.zeros(0), np.full(9, 5.0)):
        assert (fit_balance(alike, 1.0)(values) == 1).all()


@pytest.mark.parametrize("name", ["chip_rmse", "chip_huber", "mse", "huber"])
def test_each_loss_weighs_labels_by_their_value(name: str) -> None:
    balance = fit_balance(skewed(), 0.5)
    draw = torch.Generator().manual_seed(0)
    labels = 400 * torch.rand(3, 1, 5, 5, generator=draw)
    labels[0, 0, 2] = torch.nan
    prediction = labels.nan_to_num(50) + 20 * torch.randn(3, 1, 5, 5, generator=draw)
    recipe = Recipe(loss=name)  # type: ignore[arg-type]
    weighed = loss_of(recipe, balance)(prediction, labels)
    by_hand = torch.cat([labels, balance(labels)], dim=1)
    assert torch.equal(weighed, loss_of(recipe)(prediction, by_hand))
    assert not torch.equal(weighed, loss_of(recipe)(prediction, labels))
    # Together with weights by standard errors both count.
    errors = torch.full_like(labels, 0.25)
    both = loss_of(recipe, balance)(prediction, torch.cat([labels, errors], dim=1))
    root = 0.5 if name.startswith("chip") else 0.25
    assert both.item() == pytest.approx(root * weighed.item(), rel=1e-5)


# --- a spread of errors ---


def test_the_likelihood_is_that_of_torch_and_its_mean_learns_everywhere() -> None:
    draw = torch.Generator().manual_seed(0)
    target = torch.randn(2, 1, 4, 4, generator=draw)
    mean = torch.randn(2, 1, 4, 4, generator=draw).requires_grad_()
    spread = torch.rand(2, 1, 4, 4, generator=draw) + 0.5
    plain = torch.nn.GaussianNLLLoss()(mean, target, spread**2)
    assert beta_nll_loss(mean, spread, target, beta=0).item() == pytest.approx(
        plain.item(), rel=1e-5
    )
    # With beta = 1 the gradient of the mean is that of half the squared error.
    (found,) = torch.autograd.grad(beta_nll_loss(mean, spread, target, beta=1), mean)
    torch.testing.assert_close(found, (mean - target).detach() / target.numel())
    target[0, 0, 1] = torch.nan
    spread[0, 0, 1] = torch.nan
    loss = beta_nll_loss(mean, spread.requires_grad_(), target)
    loss.backward()
    assert loss.isfinite()
    assert mean.grad is not None
    assert mean.grad.isfinite().all()
    assert (mean.grad[0, 0, 1] == 0).all()
    with pytest.raises(ValueError, match="beta of a likelihood must be from 0 to 1"):
        beta_nll_loss(mean, spread, target, beta=2)


def test_a_validation_does_not_reward_too_small_a_spread() -> None:
    error = torch.full((1, 1, 1, 1), 30.0)
    loss = loss_of(Recipe(loss="beta_nll"))
    values = [
        loss(torch.tensor([0.0, sd]).reshape(1, 2, 1, 1), error).item()
        for sd in (10.0, 20.0, 30.0, 40.0)
    ]
    assert np.argmin(values) == 2


def test_a_spread_is_above_zero_and_not_shifted_by_a_curve() -> None:
    network = AttentionUNet(3, "test_resnet", (8,) * 5, outputs=2, spread=True).eval()
    network.set_statistics([0] * 3, [1] * 3, [50, 0], [60, 60])
    raw = torch.tensor([0.0, -90.0]).reshape(1, 2, 1, 1)
    first = network.maps_of(raw).flatten()
    assert first[0] == 50
    assert first[1] == pytest.approx(0.6)
    network.set_curve(RisingCurve.through([0, 100], [10, 210]))
    assert network.maps_of(raw).flatten().tolist() == pytest.approx([110, 0.6])


# --- a curve that rises ---


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    parts=st.integers(1, 40),
    size=st.sampled_from([1e-3, 1.0, 1e4]),
)
def test_a_curve_goes_through_its_points_and_never_falls(
    seed: int, parts: int, size: float
) -> None:
    draw = np.random.default_rng(seed)
    knots = size * np.cumsum(draw.uniform(0.01, 1, parts + 1)) - size
    values = size * np.cumsum(draw.uniform(0, 1, parts + 1).round(1))
    curve = RisingCurve.through(knots, values)
    found = curve(torch.from_numpy(knots).float()).double().numpy()
    np.testing.assert_allclose(found, values, atol=1e-4 * np.abs(values).max() + 1e-9)
    at = torch.from_numpy(draw.uniform(knots[0] - size, knots[-1] + size, 4000)).float()
    assert (curve(at.sort().values).diff() >= 0).all()
    # Beyond its ends it is a shift.
    beyond = torch.tensor([knots[-1] + 5 * size, knots[-1] + 6 * size])
    assert curve(beyond.float()).diff().item() == pytest.approx(size, rel=0.01)


def test_a_curve_that_falls_or_has_one_point_is_refused() -> None:
    with pytest.raises(ValueError, match="must not fall"):
        RisingCurve.through([0, 1], [1, 0])
    with pytest.raises(ValueError, match="two or more rising numbers"):
        RisingCurve.through([0], [1])
    fresh = RisingCurve(4)
    values = torch.tensor([-3.0, 0.0, torch.nan, 7.0])
    torch.testing.assert_close(fresh(values), values, equal_nan=True)


def shrunk(seed: int, count: int = 40_000) -> tuple[npt.NDArray[np.float64], ...]:
    """Return a map that saturates, its labels, and groups of pixels."""
    draw = np.random.default_rng(seed)
    observed = draw.gamma(1.2, 60.0, count)
    seen = 250 * np.tanh(observed / 200) + draw.normal(0, 20, count)
    order = np.argsort(seen)
    # The map of the least error, nearly: the mean label of pixels that look alike.
    mapped = np.empty(count)
    smooth = np.convolve(observed[order], np.ones(401) / 401, mode="same")
    mapped[order] = np.maximum.accumulate(smooth)
    return mapped, observed, np.arange(count) // 1000


def test_a_correction_lowers_the_bias_of_new_tall_forest_at_its_cost() -> None:
    curve, found = fit_correction(*shrunk(0))  # type: ignore[arg-type]
    assert curve is not None
    assert found is not None
    assert found.strength > 0
    mapped, observed, _ = shrunk(1)
    corrected = curve(torch.from_numpy(mapped).float()).double().numpy()
    tall = observed >= found.tall
    bias = [float((m - observed)[tall].mean()) for m in (mapped, corrected)]
    rmse = [float(((m - observed) ** 2).mean() ** 0.5) for m in (mapped, corrected)]
    assert bias[0] < -20
    assert abs(bias[1]) < 0.8 * abs(bias[0])
    assert rmse[1] < 1.02 * rmse[0]
    assert (np.diff(corrected[np.argsort(mapped)]) >= -1e-3).all()
    # What it says of itself is true of new pixels.
    assert found.rmse[1] <= 1.0101 * found.rmse[0]
    assert found.bias == pytest.approx(bias, abs=10)


def test_a_map_that_is_right_or_knows_nothing_stays_as_it_is() -> None:
    draw = np.random.default_rng(0)
    observed, groups = skewed(5000), np.arange(5000) // 500
    right = fit_correction(observed, observed, groups)[1]
    assert right is None or abs(right.bias[1]) < abs(right.bias[0])
    nothing = fit_correction(draw.normal(50, 1, 5000), observed, groups)[1]
    assert nothing is None or abs(nothing.bias[1]) < abs(nothing.bias[0])
    assert fit_correction(np.full(5000, 3.0), observed, groups) == (None, None)
    assert fit_correction(observed, observed, np.zeros(5000, int)) == (None, None)


# --- models ---


def fit(cube: xr.Dataset, **changes: Any) -> gb.BiomassRegressor:
    held = changes.pop("validation", HELD)
    return gb.fit(cube, "quick", held, **(TINY | changes))


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    """What the correction of the module's model was learnt from."""
    return {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def plain(folder: Path) -> gb.BiomassRegressor:
    return fit(rising_chips(), folder=folder)


@pytest.fixture(scope="module")
def corrected(
    plain: gb.BiomassRegressor, folder: Path, known: dict[str, Any]
) -> gb.BiomassRegressor:
    """The same training with a correction; it takes no more steps."""
    with pytest.MonkeyPatch.context() as patch:
        compare = tail_correction.compare_units

        def noted(mapper: Any, samples: Any, *rest: Any) -> Any:
            known["chips"] = {sample.chip for sample in samples}
            return compare(mapper, samples, *rest)

        def bent(mapped: Any, observed: Any, *_: Any) -> Any:
            """A correction that is sure to be one, whatever was learnt in a step."""
            known["labels"] = len(observed)
            knots = np.linspace(mapped.min(), mapped.max() + 1, 9)
            curve = RisingCurve.through(knots, knots + 0.01 * (knots - knots[0]) ** 2)
            found = tail_correction.TailCorrection(
                1.0, 90.0, len(mapped), 4, (30.0, 30.2), (-90.0, -40.0)
            )
            return curve, found

        patch.setattr(tail_correction, "compare_units", noted)
        patch.setattr(tail_correction, "fit_correction", bent)
        return fit(rising_chips(), folder=folder, tail_correction=True)


def test_a_correction_is_learnt_on_held_out_chips_alone_without_another_training(
    plain: gb.BiomassRegressor, corrected: gb.BiomassRegressor, known: dict[str, Any]
) -> None:
    assert known == {"chips": {0, 1, 2, 3}, "labels": 4 * 32 * 32}
    before, after = (m.network.state_dict() for m in (plain, corrected))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {name for name in after if name not in before} == {
        f"curve.{name}" for name in ("starts", "lengths", "slopes", "shift")
    }
    cube = rising_chips()
    first, second = (m.predict(cube, check="off")["agb"] for m in (plain, corrected))
    curve = corrected.network.curve
    assert curve is not None
    raw = plain._bare(cube)
    unfloored = np.stack([raw.compute(raw.reader.whole, n)[0] for n in range(8)])
    expected = curve(torch.from_numpy(unfloored)).clamp_min(0).numpy()
    np.testing.assert_allclose(second.values, expected, rtol=1e-5, atol=1e-4)
    assert float(np.abs(second - first).max()) > 1


def test_a_corrected_model_is_saved_and_described(
    corrected: gb.BiomassRegressor, plain: gb.BiomassRegressor, tmp_path: Path
) -> None:
    cube = rising_chips(2)
    corrected.save(tmp_path / "model")
    loaded = gb.load(tmp_path / "model")
    assert loaded.predict(cube, check="off").identical(
        corrected.predict(cube, check="off")
    )
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Correction of the tail: a rising curve, learnt on 4,096 held-out" in card
    assert "out of fold, RMSE 30 before and 30.2 after" in card
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["settings"]["network"]["curve"] == 8
    assert config["settings"]["recipe"]["tail_correction"] is True
    plain.save(tmp_path / "plain")
    text = (tmp_path / "plain" / "config.json").read_text()
    assert not any(name in text for name in ("curve", *SWITCHES) if name != "loss")
    assert "tail" not in (tmp_path / "plain" / "README.md").read_text().lower()


@pytest.mark.slow
def test_an_exported_graph_has_the_correction(
    corrected: gb.BiomassRegressor, tmp_path: Path
) -> None:
    path = corrected.export(tmp_path / "model.pt2", height=32, width=32)
    image = torch.from_numpy(rising_chips(2)["image"].values).float()
    with torch.inference_mode():
        expected = corrected.network(image.clone())
    found = torch.export.load(path).module()(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_a_curve_is_the_same_in_onnx(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    curve = RisingCurve.through([0, 10, 30, 100], [5, 10, 60, 200])
    values = torch.linspace(-20, 150, 2 * 1 * 4 * 4).reshape(2, 1, 4, 4)
    path = tmp_path / "curve.onnx"
    torch.onnx.export(
        torch.export.export(curve, (values,)),
        (values,),
        path,
        input_names=["values"],
        opset_version=18,
        dynamo=True,
    )
    (found,) = runtime.InferenceSession(path).run(None, {"values": values.numpy()})
    np.testing.assert_allclose(found, curve(values).numpy(), rtol=1e-6)


def test_a_map_says_how_it_was_corrected(corrected: gb.BiomassRegressor) -> None:
    made = corrected.predict(rising_chips(1), check="off")
    assert "a rising curve" in str(gb.provenance(made))


def test_a_training_begins_without_the_curve_and_an_error_keeps_it(
    corrected: gb.BiomassRegressor, tmp_path: Path
) -> None:
    corrected.save(tmp_path / "model")
    again = gb.load(tmp_path / "model")
    cube = rising_chips()
    with pytest.raises(ValueError, match="validation must be from 0"):
        again.fit(cube, "quick", 7.0, **TINY)
    assert again.network.curve is not None
    again.fit(cube, "quick", HELD, **TINY)
    assert again.network.curve is None
    assert "curve" not in again.network.settings


@pytest.mark.slow
def test_an_interval_is_calibrated_after_the_correction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from geobiomass.models import network_training

    seen = []
    calibrate = network_training.calibrate_together

    def noted(models: Any, *rest: Any) -> Any:
        seen.append(models[0].network.curve is not None)
        return calibrate(models, *rest)

    def bent(mapped: Any, *_: Any) -> Any:
        knots = [float(mapped.min()), float(mapped.max()) + 1]
        found = tail_correction.TailCorrection(1.0, 90.0, 9, 4, (3, 3), (-9, -4))
        return RisingCurve.through(knots, knots), found

    monkeypatch.setattr(network_training, "calibrate_together", noted)
    monkeypatch.setattr(tail_correction, "fit_correction", bent)
    model = fit(rising_chips(12), interval=0.5, tail_correction=True)
    assert seen == [True]
    assert list(model.predict(rising_chips(1), check="off")) == [
        *("agb", "agb_lower", "agb_upper")
    ]


@pytest.mark.slow
def test_a_model_with_a_spread_maps_it_and_calibrates_in_its_units(
    tmp_path: Path,
) -> None:
    cube = rising_chips(12)
    model = fit(cube, loss="beta_nll", interval=0.5, epochs=2)
    assert model.calibration is not None
    assert model.calibration.base == "spread"
    maps = model.predict(cube, check="off").load()
    assert list(maps) == ["agb", "agb_lower", "agb_upper", "agb_spread"]
    assert (maps["agb_spread"].values[np.isfinite(maps["agb"].values)] > 0).all()
    model.save(tmp_path / "model")
    assert gb.load(tmp_path / "model").predict(cube, check="off").identical(maps)
    with pytest.raises(ValueError, match="spread of an Ensemble must be False"):
        gb.Ensemble([model, model], spread=True)
    with pytest.raises(TypeError, match="must not predict the spread"):
        model.adapt(cube)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_with_all_switches() -> None:
    cube = rising_chips()
    first, second = (fit(cube, **SWITCHES).network.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    cube, changes = (
        rising_chips(),
        SWITCHES | {"schedule": "constant", "warmup_epochs": 0.0},
    )
    whole = fit(cube, **changes, epochs=3).network.state_dict()
    fit(cube, **changes, epochs=1, folder=tmp_path / "run")
    resumed = fit(cube, **changes, epochs=3, folder=tmp_path / "run")
    assert all(
        torch.equal(whole[name], value)
        for name, value in resumed.network.state_dict().items()
    )


def test_a_fold_that_measures_errors_does_not_teach_the_correction() -> None:
    cube = rising_chips(8)
    folds = gb.make_folds(cube, 4)
    recipe = find_recipe("quick", **TINY, validation_fraction=0.25)
    data = LabelledCube.open(cube)
    for corrects in (False, True):
        chosen = recipe.with_changes(tail_correction=corrects)
        loaders = make_loaders(data, chosen, folds[0], calibrate=False)
        assert loaders.validation is not None
        held = {s.chip for s in loaders.validation.samples}
        training = {s.chip for s in loaders.training.samples}
        whole = data.reader.whole
        fold = {n for n in range(8) if folds[0].validates(Sample(whole, n)).any()}
        assert not held & training
        assert not fold & training
        assert (held == fold) != corrects
        assert not (corrects and held & fold)


# --- settings ---


def test_settings_of_an_earlier_release_and_of_none() -> None:
    saved = recipe_to_dict(Recipe())
    assert not {"crop_sampling", "balance", "tail_correction"} & set(saved)
    assert recipe_from_dict(saved) == Recipe(**{"training": Recipe().training})
    chosen = Recipe(**SWITCHES)
    assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(chosen)))) == chosen


@pytest.mark.parametrize("name", ["crop_sampling", "balance", "tail_correction"])
def test_a_learner_by_pixel_has_none_of_them(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is a setting of networks"):
        gb.fit(rising_chips(), "pixels", **{name: SWITCHES[name]})


def test_wrong_settings_are_told_before_a_training() -> None:
    with pytest.raises(ValueError, match="balance must be from 0"):
        Recipe(balance=-1.0)
    with pytest.raises(ValueError, match="crop_sampling must be one of"):
        Recipe(crop_sampling="tall")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the last stage of the recipe 'biomassters'"):
        find_recipe("biomassters", tail_correction=True)
    with pytest.raises(gb.CubeError, match=r"needs 1,000 held-out labels.*in 2;"):
        fit(rising_chips(), tail_correction=True, validation=HELD[:2])
    with pytest.raises(gb.CubeError, match="got 0 in 0; hold out more"):
        fit(rising_chips(), tail_correction=True, validation=0)
