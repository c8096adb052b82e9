"""Targets in grams, kilograms or kg/ha: the same network, the same relative error."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from variants import variants

import pasture
from pasture.network import PastureNetwork
from pasture.scaling import scale_of, standardise
from tests.pasture.pasture_files import SMALL, draw_photos, one_thread

TO_KG, TO_KG_HA = 0.001, 10 / 0.21  # of a quadrat of 70 x 30 cm


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("photos")
    return pasture.read_photos(draw_photos(folder), folder)


def in_unit(photos: pd.DataFrame, factor: float) -> pd.DataFrame:
    names = list(pasture.TARGETS)
    return photos.assign(**{name: photos[name] * factor for name in names})


@pytest.mark.slow
@variants("stream", ["dual", "single"], quick=1)
def test_any_unit_learns_the_same_to_rounding(photos, stream) -> None:
    found = {}
    for factor in (1.0, TO_KG, TO_KG_HA):
        table = in_unit(photos, factor)
        with one_thread():
            model = pasture.fit(table, stream=stream, **{**SMALL, "epochs": 2})
            found[factor] = (model, model.predict(table) / factor)
    first, grams = found[1.0]
    assert grams.to_numpy().std() > 0.1
    for model, same in found.values():
        np.testing.assert_allclose(same, grams, rtol=3e-6)
        known = [name for name in first.history if name != "seconds"]
        pd.testing.assert_frame_equal(model.history[known], first.history[known])


@pytest.mark.slow
def test_own_targets_of_different_units_each_learn_the_same(photos) -> None:
    """A kg/ha column beside a share: each has its own scale."""
    table = photos.assign(
        dry=photos["Dry_Total_g"], clover=photos["Dry_Clover_g"] / photos["GDM_g"].max()
    )
    names = ("dry", "clover")
    found = []
    for factor in (1.0, TO_KG_HA):
        unit = table.assign(dry=table["dry"] * factor)
        with one_thread():
            model = pasture.fit(unit, targets=names, **{**SMALL, "epochs": 2})
        assert model.settings["units"] == "those of the training table"
        one, other = model.network.settings["scale"]
        assert one / other > 10
        found.append(model.predict(unit) / [factor, 1.0])
    np.testing.assert_allclose(found[1], found[0], rtol=3e-6)


@pytest.mark.slow
def test_an_ensemble_and_its_adaptation_are_in_the_tables_unit(photos) -> None:
    grams = {}
    for factor in (1.0, TO_KG_HA):
        table = in_unit(photos, factor)
        train, test = table.iloc[:8], table.iloc[8:]
        folds = pd.Series([0, 0, 1, 1] * 2, train.index)
        settings = {**SMALL, "epochs": 1}
        with one_thread():
            model = pasture.fit(
                train, stream="both", folds=folds, groups=folds.map(str), **settings
            )
            adapted = pasture.adapt(
                model, train, test, threshold=0.2 * factor, epochs=2, last=1
            )
        grams[factor] = adapted.predict(test) / factor
        r2 = model.scores["weighted R2"]
        grams[factor, "scores"] = r2
        # The adapted network goes on from learnt weights, with their scale.
        assert adapted.second.network.settings == (
            model.best_member("single").network.settings
        )
    np.testing.assert_allclose(grams[TO_KG_HA], grams[1.0], rtol=1e-5)
    np.testing.assert_allclose(
        grams[TO_KG_HA, "scores"], grams[1.0, "scores"], rtol=1e-5
    )


def test_the_scale_is_that_of_the_training_photos_and_is_saved(
    photos, tmp_path
) -> None:
    names = list(pasture.TARGETS)
    with one_thread():
        model = pasture.fit(photos.iloc[:9], validation=photos.iloc[9:], **SMALL)
        before = model.predict(photos)
        model.save(tmp_path / "model")
        again = pasture.load(tmp_path / "model")
        pd.testing.assert_frame_equal(again.predict(photos), before)
    expected = photos.iloc[:9][names].to_numpy().std()
    assert model.network.settings["scale"] == [pytest.approx(expected)] * 5
    assert again.network.settings == model.network.settings


def test_scales() -> None:
    one = np.array([[1.0, 3.0], [5.0, 7.0]])
    sd = one.std()
    assert scale_of(one, ("Dry_Green_g", "GDM_g")) == pytest.approx((sd, sd))
    assert scale_of(one, ("a", "b")) == pytest.approx((2.0, 2.0))
    # All 0, all equal, and of sizes whose squares no float holds.
    assert scale_of(np.zeros((3, 1)), ("a",)) == (1.0,)
    assert scale_of(np.full((3, 1), 8.0), ("a",)) == (2.0,)
    assert scale_of(one[:, :1] * 1e200, ("a",)) == pytest.approx((2e200,))
    assert scale_of(one[:, :1] * 1e-200, ("a",)) == pytest.approx((2e-200,))


@pytest.mark.parametrize("factor", [1e-6, TO_KG, 0.01, TO_KG_HA, 1e3, 1e6])
def test_standardised_targets_have_the_same_bits(factor) -> None:
    grams = np.random.default_rng(0).gamma(2, 15, (400, 5))
    bits = [
        standardise(values, scale_of(values, pasture.TARGETS)).tobytes()
        for values in (grams, grams * factor)
    ]
    assert bits[0] == bits[1]


def test_scores_of_own_targets_do_not_depend_on_their_units() -> None:
    draw = np.random.default_rng(0)
    known = pd.DataFrame(draw.gamma(2, 10, (30, 2)), columns=["dry", "share"])
    found = known + draw.normal(0, 5, known.shape)
    other = pasture.score(found * [TO_KG_HA, 0.01], known * [TO_KG_HA, 0.01])
    pd.testing.assert_series_equal(pasture.score(found, known)["r2"], other["r2"])
    # The competition's targets are pooled in grams.
    names = list(pasture.TARGETS)
    grams = pd.DataFrame(draw.gamma(2, [5, 3, 2, 7, 10], (30, 5)), columns=names)
    table = pasture.score(grams + 1, grams)
    weights = np.array([0.1, 0.1, 0.1, 0.2, 0.5])
    mean = (weights * grams).to_numpy().sum() / 30
    spread = (weights * (grams - mean) ** 2).to_numpy().sum()
    assert table.loc["weighted R2", "r2"] == pytest.approx(1 - 30 / spread)


@pytest.mark.slow
def test_a_threshold_for_grams_is_told_where_targets_are_in_kg(photos) -> None:
    table = in_unit(photos, TO_KG)
    train, test = table.iloc[:8], table.iloc[8:]
    with one_thread():
        model = pasture.fit(train, **{**SMALL, "epochs": 1})
        told = r"threshold=0.2 sets 12 of 12 .* unit of the targets"
        with pytest.warns(UserWarning, match=told):
            adapted = pasture.adapt(model, train, test, epochs=1, last=1)
        assert (adapted.predict(test) == 0).all(axis=None)
        pasture.adapt(model, train, test, epochs=1, last=1, threshold=0.0002)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (0, "must be 5 positive numbers"),
        (-1.0, "must be 5 positive numbers"),
        (float("inf"), "must be 5 positive numbers"),
        ([1.0, 2.0], "must be 5 positive numbers"),
        ([1.0, 2.0, 1.0, 1.0, 1.0], "all the same"),
    ],
)
def test_scales_of_a_network_are_checked(scale, message) -> None:
    with pytest.raises(ValueError, match=message):
        PastureNetwork("test_vit", "dual", scale=scale)


def test_an_unscaled_network_predicts_as_before() -> None:
    """Weights of releases before the scale, which have no such setting."""
    network = PastureNetwork("test_vit", freeze=0).eval()
    photo = np.random.default_rng(0).integers(0, 255, (1, 3, 32, 64), np.uint8)
    with torch.inference_mode():
        before = network(torch.from_numpy(photo))
        network.set_scale(1.0)
        assert torch.equal(network(torch.from_numpy(photo)), before)
        network.set_scale(3.0)
        assert torch.equal(network(torch.from_numpy(photo)), 3 * before)
        with network.standardised():
            assert torch.equal(network(torch.from_numpy(photo)), before)
    assert "scale" not in network.state_dict()
