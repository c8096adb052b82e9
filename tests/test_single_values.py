"""Trainings of one sample with one month: a sentence, before or in place of torch's."""

import numpy as np
import pytest
from conftest import make_chips

import geobiomass as gb

pytestmark = pytest.mark.filterwarnings("ignore:one chip, or a scene too small")


def test_one_month_of_one_small_chip_cannot_train_and_is_told() -> None:
    # Known before: one chip, one month, deepest features of 1 x 1 pixel.
    with pytest.raises(gb.CubeError, match=r"32 x 32 pixels .*of 64 pixels or more"):
        gb.fit(make_chips(1, 32).isel(month=[1]), recipe="quick", epochs=1)
    # Not known before: of three months two are missing there.
    chip = make_chips(1, 32)
    chip["image"][:, 1:] = np.nan
    with pytest.raises(gb.CubeError, match=r"one sample with one month.*batch_size"):
        gb.fit(chip, recipe="quick", epochs=1)


def test_what_the_sentence_says_is_enough() -> None:
    model = gb.fit(make_chips(1, 64).isel(month=[1]), recipe="quick", epochs=1)
    assert np.isfinite(model.history["train_loss"]).all()
