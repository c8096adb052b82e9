import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geobiomass.training.dropout import (
    OPTICAL_PATTERNS,
    drop_bands,
    drop_passes,
    drop_patterns,
)

PASSES = (0, 0, 1, 1, 2, 2, 2)
OPTICAL = 2
CALENDAR = (9, 10, 11, 12, 1, 2, 3, 4, 5, 6, 7, 8)


def whole(batch: int, months: int = 12) -> torch.Tensor:
    return torch.ones(batch, months, len(PASSES), 2, 2)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def there(image: torch.Tensor) -> torch.Tensor:
    """(batch, month, band) bool; a band of a month must be whole or away."""
    finite = image.isfinite().flatten(3)
    assert torch.equal(finite.any(3), finite.all(3))
    return finite.any(3)


def test_a_sample_gets_one_of_the_six_patterns():
    image = whole(6000)
    result = drop_patterns(image, PASSES, OPTICAL, CALENDAR, 1.0, generator=seeded(0))
    kept = there(result)
    assert kept[:, :, :4].all()
    assert (kept[:, :, 4:] == kept[:, :, 4:5]).all()
    rows = ["".join(str(int(k)) for k in row) for row in kept[:, :, 4].tolist()]
    assert set(rows) == set(OPTICAL_PATTERNS)
    for pattern in OPTICAL_PATTERNS:
        assert abs(rows.count(pattern) - 1000) < 145  # five standard deviations
    assert image.isfinite().all()


def test_patterns_come_as_often_as_asked():
    result = drop_patterns(
        whole(4000),
        PASSES,
        OPTICAL,
        CALENDAR,
        0.3,
        patterns=["000000111111"],
        generator=seeded(1),
    )
    lost = ~there(result).flatten(1).all(1)
    assert lost.double().mean().item() == pytest.approx(0.3, abs=0.037)


def test_patterns_follow_the_calendar_of_the_steps():
    # January to March of two years, and a step that is no month.
    calendar = (1, 2, 3, 1, 2, 3, 0)
    result = drop_patterns(
        whole(3, 7), PASSES, OPTICAL, calendar, 1.0, patterns=["110001111111"]
    )
    months = [True, True, True] * 2 + [True]
    # Positions 2 to 4 from September are November, December and January.
    months[0] = months[3] = False
    expected = torch.tensor(months).repeat(3, 1)
    assert torch.equal(there(result)[:, :, 4], expected)
    assert there(result)[:, :, :4].all()


def test_a_lost_month_does_not_come_back():
    image = whole(50)
    image[:, 7, 4:] = torch.nan
    result = drop_patterns(image, PASSES, OPTICAL, CALENDAR, 0.5, generator=seeded(2))
    assert not there(result)[:, 7, 4:].any()


def test_a_pass_goes_for_a_run_of_months():
    result = drop_passes(whole(6000), PASSES, OPTICAL, 0.6, generator=seeded(3))
    kept = there(result)
    assert kept[:, :, 4:].all()
    assert torch.equal(kept[:, :, 0], kept[:, :, 1])
    assert torch.equal(kept[:, :, 2], kept[:, :, 3])
    lost = ~kept[:, :, [0, 2]]
    assert not lost.any(1).all(1).any()  # never both passes
    assert lost.any(1).double().mean(0).tolist() == pytest.approx([0.3] * 2, abs=0.03)
    runs = lost.any(2).int()
    starts = (runs[:, 1:] > runs[:, :-1]).sum(1) + runs[:, 0]
    assert set(starts.tolist()) == {0, 1}
    lengths = runs.sum(1)[starts == 1]
    assert {1, 12} <= set(lengths.tolist())
    # The mean distance of two even draws of 1..n, and the first itself.
    assert lengths.double().mean().item() == pytest.approx(143 / 36 + 1, abs=0.25)


def test_half_the_samples_without_a_pass_are_a_tenth_of_the_months():
    result = drop_passes(whole(8000), PASSES, OPTICAL, generator=seeded(4))
    shares = (~there(result)[:, :, [0, 2]]).double().mean((0, 1))
    assert shares.tolist() == pytest.approx([0.104] * 2, abs=0.01)


def test_without_radar_no_pass_goes():
    image = whole(3)
    assert drop_passes(image, [2] * 7, 2, 1.0) is image


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    missing=st.sampled_from([0.0, 0.5, 0.9, 0.99]),
    masked=st.booleans(),
)
def test_no_sample_loses_all_it_has(seed, missing, masked):
    generator = seeded(seed)
    image = whole(20)
    image[torch.rand(20, 12, 7, generator=generator) < missing] = torch.nan
    present = torch.rand(20, 12, generator=generator) < 0.3 if masked else None
    counts = torch.ones(20, 12, dtype=torch.bool) if present is None else present
    before = there(image)
    for result in (
        drop_patterns(
            image,
            PASSES,
            OPTICAL,
            CALENDAR,
            1.0,
            present=present,
            generator=generator,
        ),
        drop_passes(image, PASSES, OPTICAL, 1.0, present=present, generator=generator),
    ):
        after = there(result)
        assert not (after & ~before).any()
        left, had = ((a & counts[..., None]).flatten(1).any(1) for a in (after, before))
        assert torch.equal(left, had)


def test_a_sample_is_spared_what_would_empty_it():
    image = whole(2)
    image[0, :, 2:] = torch.nan  # one radar pass is all there is
    gone = torch.zeros(2, 12, 7, dtype=torch.bool)
    gone[:, :, :2] = True
    rest = torch.zeros_like(gone)
    rest[:, 3:, 2:] = True
    result, present = drop_bands(image, [gone, rest])
    assert torch.equal(there(result)[0], there(image)[0])
    assert torch.equal(there(result)[1], ~(gone | rest)[1])
    assert present is not None
    assert present.tolist() == [[True] * 12, [True] * 3 + [False] * 9]


def test_nothing_lost_is_the_image_itself():
    image = whole(4)
    assert drop_passes(image, PASSES, OPTICAL, 0.0) is image
    assert drop_patterns(image, PASSES, OPTICAL, CALENDAR, 0.0) is image


def test_what_does_not_match_the_image_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 12, 7\).*got \(2, 11, 7\)"):
        drop_patterns(whole(2), PASSES, OPTICAL, CALENDAR[:11])
    with pytest.raises(ValueError, match=r"\(2, 12, 7\).*got \(2, 12, 3\)"):
        drop_passes(whole(2), (0, 1, 2), OPTICAL)
    with pytest.raises(ValueError, match=r"twelve characters.*'0110'"):
        drop_patterns(whole(2), PASSES, OPTICAL, CALENDAR, patterns=["0110"])
