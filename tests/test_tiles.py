"""Tiles are pure arithmetic: exact cover, weights that sum to one, no gaps."""

from __future__ import annotations

from itertools import product
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geobiomass.tiles import (
    Lattice,
    Window,
    blocks,
    cover,
    even_blocks,
    mirror,
    random_crop,
)

sizes = st.integers(1, 150)
blends: st.SearchStrategy[Literal["smooth", "crop"]] = st.sampled_from(
    ["smooth", "crop"]
)


@st.composite
def lattices(draw: st.DrawFn) -> Lattice:
    tile = draw(st.integers(1, 64))
    overlap = draw(st.integers(0, tile - 1))
    # A stride of a pixel over a wide scene is thousands of tiles: allowed, slow.
    stride = tile - overlap
    longest = min(150, 40 * stride)
    height, width = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    multiple, blend = draw(st.sampled_from([1, 8, 32])), draw(blends)
    return Lattice(height, width, tile, overlap, multiple, blend)


@given(lattices())
def test_weights_sum_to_one_at_every_pixel_to_the_edge(lattice: Lattice) -> None:
    total = np.zeros((lattice.height, lattice.width))
    scene = Window(0, 0, lattice.height, lattice.width)
    rows, columns = lattice.shape
    for row in range(rows):
        for column in range(columns):
            tile, weights = lattice.window(row, column), lattice.weights(row, column)
            common = tile.intersect(scene)
            assert common is not None, "a tile without a pixel of the scene is waste"
            here = weights[common.within(tile)]
            if lattice.blend == "smooth":
                assert (here > 0).all()
            else:
                assert set(np.unique(here)) <= {0.0, 1.0}
            total[common.rows, common.columns] += here
    np.testing.assert_allclose(total, 1.0, rtol=0, atol=1e-14)


def test_cropping_cuts_in_the_middle_of_the_overlap() -> None:
    lattice = Lattice(40, 16, 16, 4, multiple=1, blend="crop")
    owner = [np.nonzero(lattice.weights(row, 0)[:, 0])[0] for row in range(3)]
    assert [(o[0] + 12 * i, o[-1] + 12 * i) for i, o in enumerate(owner)] == [
        (0, 13),
        (14, 25),
        (26, 39),
    ]


def test_smooth_weights_rise_as_a_squared_sine() -> None:
    weights = Lattice(100, 32, 32, 8, multiple=1).weights(1, 0)[:, 5]
    expected = np.sin(np.pi / 2 * (np.arange(8) + 0.5) / 8) ** 2
    np.testing.assert_allclose(weights[:8], expected, atol=1e-14)
    np.testing.assert_allclose(weights[-8:], expected[::-1], atol=1e-14)
    np.testing.assert_allclose(weights[8:-8], 1)


@given(lattices(), st.data())
def test_touching_finds_the_tiles_that_share_a_pixel(
    lattice: Lattice, data: st.DataObject
) -> None:
    top = data.draw(st.integers(0, lattice.height - 1))
    left = data.draw(st.integers(0, lattice.width - 1))
    bottom = data.draw(st.integers(top + 1, lattice.height))
    right = data.draw(st.integers(left + 1, lattice.width))
    window = Window(top, left, bottom, right)
    rows, columns = lattice.shape
    expected = [
        (row, column)
        for row in range(rows)
        for column in range(columns)
        if lattice.window(row, column).intersect(window) is not None
    ]
    assert list(product(*lattice.touching(window))) == expected


@given(sizes, sizes, st.integers(1, 80))
def test_blocks_partition_the_scene(height: int, width: int, side: int) -> None:
    for cut in (blocks, even_blocks):
        count = np.zeros((height, width), int)
        for block in cut(height, width, side):
            count[block.rows, block.columns] += 1
            if cut is blocks:
                assert max(block.height, block.width) <= side
            else:
                assert min(side, height) <= block.height < 2 * max(side, height // 2)
                assert min(side, width) <= block.width
        assert (count == 1).all()


@given(st.integers(-200, 200), st.integers(1, 200), st.integers(1, 60))
def test_mirror_is_numpys_symmetric_padding(start: int, length: int, size: int) -> None:
    before, after = max(0, -start), max(0, start + length - size)
    padded = np.pad(np.arange(size), (before, after), mode="symmetric")
    expected = padded[start + before : start + before + length]
    np.testing.assert_array_equal(mirror(start, start + length, size), expected)


@given(sizes, sizes, st.integers(1, 60), st.integers(0, 2**31))
def test_crops_lie_inside_and_have_one_size(
    height: int, width: int, crop: int, seed: int
) -> None:
    whole = Window(3, 5, 3 + height, 5 + width)
    shape = (min(crop, height), min(crop, width))
    drawn = random_crop(whole, crop, crop, np.random.default_rng(seed))
    seen = np.zeros((height, width), bool)
    for window in [drawn, *cover(whole, crop, crop)]:
        assert (window.height, window.width) == shape
        assert window.intersect(whole) == window
    for window in cover(whole, crop, crop):
        seen[window.within(whole)] = True
    assert seen.all()


def test_a_scene_smaller_than_a_tile_gets_one_tile_of_its_own_size() -> None:
    lattice = Lattice(1, 40, 256, 64)
    assert lattice.shape == (1, 1)
    assert lattice.tile_shape == (32, 64)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"height": 0}, "height of a lattice must be at least 1 pixel, got 0"),
        ({"tile": 64, "overlap": 64}, "got overlap=64 and tile=64"),
        ({"overlap": -1}, "got overlap=-1"),
    ],
)
def test_bad_lattices_say_what_is_wrong(arguments: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Lattice(**{"height": 100, "width": 100, **arguments})


def test_blocks_of_no_size_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
        blocks(10, 10, 0)
