"""Tiles are pure arithmetic: exact cover, weights that sum to one, no gaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
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


@st.composite
def lattices(draw: st.DrawFn) -> Lattice:
    tile = draw(st.integers(1, 64))
    overlap = draw(st.integers(0, tile - 1))
    # A stride of a pixel over a wide scene is thousands of tiles: allowed, slow.
    stride = tile - overlap
    longest = min(150, 40 * stride)
    height, width = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    return Lattice(height, width, tile, overlap, draw(st.sampled_from([1, 8, 32])))


def all_tiles(lattice: Lattice) -> list[Window]:
    rows, columns = lattice.shape
    return [lattice.window(r, c) for r in range(rows) for c in range(columns)]


@given(lattices())
def test_every_pixel_is_covered_and_weights_are_positive(lattice: Lattice) -> None:
    total = np.zeros((lattice.height, lattice.width))
    scene = Window(0, 0, lattice.height, lattice.width)
    assert (lattice.weights > 0).all()
    for tile in all_tiles(lattice):
        common = tile.intersect(scene)
        assert common is not None, "a tile without a pixel of the scene is waste"
        total[common.rows, common.columns] += lattice.weights[common.within(tile)]
    assert (total > 0).all()


@example(tile=2, overlap=0)
@given(st.integers(2, 60), st.integers(0, 30))
def test_weights_of_tiles_that_meet_sum_to_one(tile: int, overlap: int) -> None:
    overlap = min(overlap, tile // 2)
    lattice = Lattice(4 * tile, tile, tile, overlap, multiple=1)
    total = np.zeros(lattice.height + tile)
    for row in range(lattice.shape[0]):
        window = lattice.window(row, 0)
        total[window.rows] += np.sqrt(np.diag(lattice.weights))
    inner = total[overlap : lattice.height - overlap]
    np.testing.assert_allclose(inner, 1.0, atol=1e-12)


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
    assert list(lattice.touching(window)) == expected


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
