"""Trainings of one sample with one month: a sentence, before or in place of torch's."""

import numpy as np
import pytest
from conftest import make_chips

import geobiomass as gb
from geobiomass.data.loader import ChipLoader
from geobiomass.data.reader import Reader
from geobiomass.tiles import Sample, Window

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


@pytest.mark.slow
def test_one_sample_more_than_a_batch_holds_trains() -> None:
    # Batches have about the same size: here 3 and 2, not 4 and 1.
    chips = make_chips(5, 32).isel(month=[1])
    model = gb.fit(chips, recipe="quick", epochs=1, batch_size=4, validation=None)
    assert np.isfinite(model.history["train_loss"]).all()


@pytest.mark.parametrize(
    ("count", "size", "ranks"),
    [
        (count, size, ranks)
        for count in (1, 2, 5, 9, 57, 64)
        for size in (1, 2, 4, 8)
        for ranks in (1, 2, 3)
        if count >= ranks  # fewer samples than processes are refused elsewhere
    ],
)
def test_the_smallest_batch_is_that_of_the_plan(
    count: int, size: int, ranks: int
) -> None:
    chips = make_chips(1, 32)
    reader = Reader(chips, chips["band"].values.tolist())
    samples = [Sample(Window(0, 0, 32, 32), chip) for chip in range(count)]
    loader = ChipLoader(reader, samples, batch_size=size)
    plans = [loader.plan(0, rank, ranks) for rank in range(ranks)]
    sizes = [len(batch) for plan in plans for batch in plan]
    assert loader.smallest_batch(ranks) == min(sizes) >= max(sizes) - 1


@pytest.mark.slow
def test_what_the_sentence_says_is_enough() -> None:
    model = gb.fit(make_chips(1, 64).isel(month=[1]), recipe="quick", epochs=1)
    assert np.isfinite(model.history["train_loss"]).all()
