"""Features of a pixel: their values, missing values, and independence of tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geobiomass.learner.features import PixelFeatures

BANDS = ("VV_asc", "VH_asc", "B04", "B08")
MONTHS = (1, 3, 5, 7, 9, 11)


@pytest.fixture
def image() -> torch.Tensor:
    """Twelve by fourteen pixels, a fifth of the values missing, a month without any."""
    draw = np.random.default_rng(0)
    values = draw.uniform(10, 4000, (1, 6, 4, 12, 14)).astype(np.float32)
    values[draw.random(values.shape) < 0.2] = np.nan
    values[:, 2] = np.nan
    return torch.from_numpy(values)


def plane(features: PixelFeatures, maps: torch.Tensor, name: str) -> np.ndarray:
    return maps[0, features.names.index(name)].numpy()


def test_features_have_the_values_of_numpy(image: torch.Tensor) -> None:
    features = PixelFeatures(BANDS, MONTHS, (3,))
    maps, values = features(image), image[0].numpy().astype(np.float64)
    red, near = values[:, 2], values[:, 3]
    expected = {
        "B04 mean": np.nanmean(red, axis=0),
        "B04 median": np.nanmedian(red, axis=0),
        "B04 min": np.nanmin(red, axis=0),
        "B04 max": np.nanmax(red, axis=0),
        "B04 sd": np.nanstd(red, axis=0),
        "NDVI mean": np.nanmean((near - red) / (near + red), axis=0),
        "VH-VV_asc mean": np.nanmean(values[:, 1] - values[:, 0], axis=0),
        "B08 month 7": near[3],
        "optical months": np.isfinite(values[:, 2:]).any(axis=1).sum(axis=0),
    }
    mean = np.pad(np.nanmean(red, axis=0), 1, mode="symmetric")
    squares = np.lib.stride_tricks.sliding_window_view(mean, (3, 3))
    expected["B04 mean of 3x3"] = np.nanmean(squares, axis=(2, 3))
    expected["B04 sd of 3x3"] = np.nanstd(squares, axis=(2, 3))
    for name, wanted in expected.items():
        found = plane(features, maps, name)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, err_msg=name)
    assert np.isnan(plane(features, maps, "B08 month 5")).all()
    assert np.isfinite(plane(features, maps, "B04 mean")).all()


def test_a_harmonic_is_found_whatever_months_are_there() -> None:
    angles = 2 * np.pi * (np.arange(1, 13) - 0.5) / 12
    series = 100 + 30 * np.cos(angles) - 20 * np.sin(angles)
    image = np.tile(series[None, :, None, None, None], (1, 1, 1, 1, 3))
    image[0, [0, 5, 6], 0, 0, 1] = np.nan
    image[0, 3:, 0, 0, 2] = np.nan  # three months do not determine three terms
    features = PixelFeatures(("B08",), range(1, 13), ())
    maps = features(torch.from_numpy(image.astype(np.float32)))
    cosine, sine = (plane(features, maps, f"B08 {one}") for one in ("cosine", "sine"))
    np.testing.assert_allclose(cosine[0, :2], 30, rtol=1e-4)
    np.testing.assert_allclose(sine[0, :2], -20, rtol=1e-4)
    assert np.isnan([cosine[0, 2], sine[0, 2]]).all()


def test_missing_means_missing(image: torch.Tensor) -> None:
    features = PixelFeatures(BANDS, MONTHS)
    maps = features(image)
    for value in (np.inf, -np.inf):
        other = image.masked_fill(image.isnan(), value)
        assert torch.equal(maps.nan_to_num(-1), features(other).nan_to_num(-1))
    kept = [0, 1, 3, 4, 5]  # the third month has nothing
    fewer = features(image[:, kept], [MONTHS[month] for month in kept])
    assert torch.equal(maps.nan_to_num(-1), fewer.nan_to_num(-1))


def test_a_feature_has_the_same_bits_in_each_tile(image: torch.Tensor) -> None:
    features = PixelFeatures(BANDS, MONTHS, (3, 5))
    whole = features(image).nan_to_num(-1)
    inner = features(image, margin=2).nan_to_num(-1)
    assert torch.equal(whole[..., 2:-2, 2:-2], inner)
    part = features(image[..., 1:9, 3:12]).nan_to_num(-1)
    assert torch.equal(whole[..., 3:7, 5:10], part[..., 2:-2, 2:-2])
    # Bands of small images are computed together, those of large ones one by one.
    wide = torch.cat([image] * 80, dim=-1)
    assert wide[0, 0, 0].numel() > 4096 > image[0, 0, 0].numel()
    found = features(wide).nan_to_num(-1)
    count = image.shape[-1]
    assert torch.equal(found[..., 2 : count - 2], whole[..., 2:-2])


def test_squares_are_odd_and_months_as_many_as_the_images(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="neighbourhoods must be odd numbers"):
        PixelFeatures(BANDS, MONTHS, (4,))
    with pytest.raises(ValueError, match="image must have the 6 months"):
        PixelFeatures(BANDS, MONTHS)(image[:, :3])
