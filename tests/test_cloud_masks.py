"""Clouds that a detector finds, in place of the scene classification."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pystac
import pytest
import stac_server
import torch
import xarray as xr
from scipy.ndimage import maximum_filter
from stac_server import BOUNDS, Site

import geobiomass as gb
from geobiomass.sources.stac.from_archive import FINGERPRINT

CLOUD = 8_000  # the archive draws clouds and shadows with 9,000


@pytest.fixture
def site(archive_site: Site) -> Site:
    return archive_site


def opened(items: Any, **more: Any) -> xr.Dataset:
    settings = {"bounds": BOUNDS, "crs": 32633, "months": "2021-12", "block": 512}
    return gb.from_stac(items, **(settings | {"bands": ["B02"]} | more))


def bright(image: xr.DataArray) -> npt.NDArray[np.bool_]:
    """Return where blue is as bright as the archive's clouds."""
    return (image.sel(band="B02") > CLOUD).values


@dataclass(frozen=True)
class Wide:
    """Masks clouds, and what is within five pixels of them."""

    bands = ("B03",)
    margin = 5

    def __call__(self, image: xr.DataArray) -> npt.NDArray[np.bool_]:
        assert list(image["band"]) == ["B03"]
        found: npt.NDArray[np.bool_] = maximum_filter(image[0].values > CLOUD, 11)
        return found


def test_a_function_masks_what_the_classification_does(site: Site) -> None:
    usual = opened(site.url).compute(scheduler="synchronous")
    mine = opened(site.url, cloud_mask=bright).compute(scheduler="synchronous")
    assert np.isfinite(usual["image"]).any()
    xr.testing.assert_equal(mine["image"], usual["image"])
    assert mine.attrs["cloud_mask"] == "bright"
    assert "cloud_mask" not in usual.attrs
    assert mine.attrs[FINGERPRINT] != usual.attrs[FINGERPRINT]
    named = opened(site.url, cloud_mask="classification")
    assert named.attrs[FINGERPRINT] == usual.attrs[FINGERPRINT]
    # Classes that are named are masked as well: here vegetation, which is everywhere.
    none = opened(site.url, cloud_mask=bright, masked_classes=(0, 1, 4))["image"]
    assert float(none.notnull().mean()) < 0.1


def test_a_detector_sees_pixels_around_a_block(site: Site) -> None:
    whole, parts = (
        opened(site.url, cloud_mask=Wide(), block=block)["image"].compute(
            scheduler="synchronous"
        )
        for block in (512, 200)
    )
    xr.testing.assert_equal(parts, whole)
    usual = opened(site.url)["image"].compute(scheduler="synchronous")
    assert (whole.isnull() >= usual.isnull()).all()
    assert not whole.equals(usual)


class ByBrightness(torch.nn.Module):
    """Stands in for the networks: what is far above the mean is a thick cloud."""

    def __init__(self) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        cloud = 10 * (image[:, 1] - self.level)
        other = torch.zeros_like(cloud)
        return torch.stack([other, cloud, other - 99, other - 99], 1)


def test_omnicloudmask_finds_clouds(site: Site) -> None:
    mask = gb.OmniCloudMask(models=ByBrightness(), device="cpu")
    cube = opened(site.url, cloud_mask=mask)
    assert cube.attrs["cloud_mask"] == "OmniCloudMask (thick, thin, shadow)"
    image = cube["image"].compute(scheduler="synchronous")
    clouded = opened(site.url, months="2021-12", masked_classes=(0,))["image"].compute(
        scheduler="synchronous"
    )
    assert float(clouded.max()) > CLOUD > float(image.max())
    assert int(image.notnull().sum()) > 0.9 * int(clouded.notnull().sum())


def test_a_scene_whose_bands_cannot_be_read_has_no_clear_pixel(
    tmp_path: Path,
) -> None:
    drawn = stac_server.images()
    stac_server.write_images(tmp_path, drawn)
    stac_server.cut_short(tmp_path / "s2-feb-21-z33" / "B03.tif")
    with stac_server.serve(tmp_path, drawn) as site:
        february = {"cloud_mask": Wide(), "months": "2022-02", "damaged": "skip"}
        others = [
            pystac.Item.from_dict(item)
            for item in site.items
            if item["id"] != "s2-feb-21-z33"
        ]
        image, alone = (
            opened(items, **february)["image"].compute(scheduler="synchronous")
            for items in (site.url, others)
        )
    xr.testing.assert_equal(image, alone)


def wrong_shape(image: xr.DataArray) -> npt.NDArray[np.bool_]:
    return np.zeros((3, 4), bool)


def chances(image: xr.DataArray) -> npt.NDArray[np.float32]:
    return np.zeros(image.shape[1:], np.float32)


class NeedsCirrus(Wide):
    bands = ("B10",)  # type: ignore[assignment]


class NeedsCoast(Wide):
    bands = ("B01",)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ("fmask", "cloud_mask must be 'classification', 'omnicloudmask'.* got 'fmask'"),
        ("s2cloudless", "s2cloudless needs band B10 of Level-1C"),
        (3, "or a function of an image, got 3"),
        (NeedsCirrus(), r"bands of cloud_mask must be among B01.* got \['B10'\]"),
        (
            wrong_shape,
            r"must return bool of the shape .*, got bool of the shape \(3, 4",
        ),
        (chances, "must return bool .* got float32 .* from chances"),
        (NeedsCoast(), "cloud_mask needs band B01, which item s2-.* does not have"),
    ],
)
def test_a_wrong_detector_is_one_sentence(site: Site, mask: Any, words: str) -> None:
    with pytest.raises(gb.CubeError, match=words):
        opened(site.url, cloud_mask=mask)["image"].compute(scheduler="synchronous")


def test_a_survey_counts_what_each_detector_leaves(site: Site) -> None:
    survey = gb.survey_archive(
        *(site.url, BOUNDS, "2021-12:2022-01"),
        crs=32633,
        bands=["B02"],
        headers=False,
        cloud_masks=["classification", bright, Wide()],
    )
    table = survey.masks
    assert table is not None
    assert list(table) == ["classification", "bright", "Wide", "pixels"]
    december = table.loc["2021-12"]
    # The sample is the whole of this small area.
    passes = survey.table.loc[("2021-12", "Sentinel-2"), "dates"]
    assert 0.5 * passes < december["pixels"] / (348 * 336) < passes
    assert 0.2 < december["classification"] < 0.95
    assert december["bright"] == december["classification"]
    assert december["Wide"] < december["bright"] - 0.005
    assert table.loc["2022-01", "pixels"] == 0
    assert np.isnan(table.loc["2022-01", "bright"])
    text = str(survey)
    assert "left as clear" in text
    assert f"{100 * december['Wide']:.0f}" in text
    carried = survey.to_dict()["masks"]["2021-12"]
    assert carried["bright"] == pytest.approx(december["bright"])
    assert gb.survey_archive(site.url, BOUNDS, "2021-12", headers=False).masks is None
    with pytest.raises(gb.CubeError, match="different names, got 'bright' twice"):
        gb.survey_archive(site.url, BOUNDS, "2021-12", cloud_masks=[bright, bright])


def test_the_command_has_it(
    archive_folder: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    words = ("ingest", "stac", "--months", "2021-12", tmp_path / "cube.zarr")
    where = ("--items", archive_folder / "catalog.json", "--bbox", *map(str, BOUNDS))
    for more, text in (
        (("--cloud-weights", tmp_path), "is of --cloud-mask omnicloudmask"),
        (
            ("--cloud-mask", "omnicloudmask", "--cloud-weights", tmp_path / "none"),
            "weights of OmniCloudMask must be a folder",
        ),
        (("--cloud-mask", "fmask"), "omnicloudmask"),
    ):
        code, _, errors = run(*words, *where, *more)
        assert code == 2
        assert text in errors


def test_weights_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(gb.CubeError, match="weights of OmniCloudMask must be a folder"):
        gb.OmniCloudMask(weights=tmp_path / "none")


def test_the_package_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "omnicloudmask", None)
    with pytest.raises(ImportError, match=r"pip install 'geobiomass\[clouds\]'"):
        gb.OmniCloudMask()
