"""The report: one file that links to nothing, with the figures of an evaluation."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import make_chips, make_scene
from PIL import Image

import geobiomass as gb

# Reports of these tests are of the training data.
pytestmark = pytest.mark.filterwarnings("ignore:.*trained the model")

BANDS = ("B02", "B03", "B04")
QUICK = {
    "epochs": 1,
    "batch_size": 4,
    "crop": 32,
    "encoder": "test_resnet",
    "decoder_channels": (16, 16, 16, 16, 16),
    "progress": False,
}


class Page(HTMLParser):
    """The links, pictures and words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.pictures: list[Image.Image] = []
        self.words: list[str] = []
        self.headings: list[str] = []
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = tag
        for name, value in attrs:
            if name in ("src", "href") and value and not value.startswith("data:"):
                self.links.append(value)
            if name == "src" and value and value.startswith("data:image/png;base64,"):
                data = base64.b64decode(value.split(",", 1)[1])
                self.pictures.append(Image.open(io.BytesIO(data)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._within == "h2":
            self.headings.append(data)
            self._within = ""

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    gb.fit(make_scene(64, 80, bands=BANDS), "quick", **QUICK).save(folder)
    return folder


def coloured_chips(count: int) -> xr.Dataset:
    reflectance = make_chips(count).isel(band=[1, 1, 2])  # the first band is radar
    return reflectance.assign_coords(band=list(BANDS))


def test_a_report_of_a_scene_is_one_file_with_the_figures_of_an_evaluation(
    run, model: Path, tmp_path: Path
) -> None:
    gb.write_cube(make_scene(64, 80, bands=BANDS, seed=1), tmp_path / "scene.zarr")
    out = tmp_path / "report.html"
    code, said, err = run("report", model, tmp_path / "scene.zarr", "--out", out)
    assert code == 0, err
    assert str(out) in said
    assert "Mapping" in err  # progress
    page = Page(out.read_text())
    assert page.headings == [
        "About",
        "Data and split",
        "Error",
        "Error plots",
        "Prediction interval",
        "Area of applicability",
        "The map",
        "Examples",
        "Months",
        "Training",
        "The cube",
        "The model",
        "Provenance",
    ]
    assert all(link.startswith("#section-") for link in page.links)
    assert "url(" not in out.read_text()
    # Scatter, bins, where it holds, the map, its place, availability, attention,
    # history.
    assert len(page.pictures) == 8
    for picture in page.pictures:
        assert min(picture.size) > 200
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    table = gb.load(model).evaluate(gb.open_cube(tmp_path / "scene.zarr"))
    everything = table.loc["all"]
    assert f"{everything['average_rmse']:.1f} Mg/ha average RMSE" in page.text
    assert f"{everything['r2']:.3f} R²" in page.text
    assert f"{int(everything['pixels']):,} pixels" in page.text
    for name in table.index:
        assert name in page.text
    card = (model / "README.md").read_text()
    assert "Above-ground biomass from monthly satellite images" in card
    assert "Above-ground biomass from monthly satellite images" in page.text
    assert "Where not to trust it" in page.text
    assert "library_name" not in page.text  # the card's front matter
    assert f"torch {__import__('torch').__version__.split('+')[0]}" in page.text


@pytest.mark.slow
def test_a_report_of_chips_maps_as_many_as_are_asked_for(
    model: Path, tmp_path: Path
) -> None:
    chips = coloured_chips(5)
    out = gb.write_report(
        gb.load(model), chips, tmp_path / "r.html", samples=4, progress=False
    )
    page = Page(out.read_text())
    assert "4 of 5 chips" in page.text
    assert f"{4 * 32 * 32:,} pixels" in page.text
    maps = [word for word in page.words if word.startswith("Map of chip ")]
    assert maps == [f"Map of chip chip00{i}." for i in (0, 3, 4)]
    chosen = chips.isel(chip=[0, 1, 3, 4])
    error = gb.load(model).evaluate(chosen)["average_rmse"]["all"]
    assert f"{error:.1f} Mg/ha average RMSE" in page.text


@pytest.mark.parametrize("labels", ["none", "all missing"])
@pytest.mark.slow
def test_without_labels_there_are_maps_and_no_errors(
    model: Path, tmp_path: Path, labels: str
) -> None:
    scene = make_scene(64, 64, bands=BANDS)
    scene = scene.drop_vars("agb") if labels == "none" else scene
    if labels == "all missing":
        scene["agb"] = scene["agb"] * np.nan
    out = gb.write_report(model, scene, tmp_path / "r.html", progress=False)
    page = Page(out.read_text())
    assert "There is no error to report" in page.text
    assert "Error plots" not in page.headings
    assert "Examples" in page.headings
    # Where it holds, the map, its place, availability, attention, history.
    assert len(page.pictures) == 6


@pytest.mark.slow
def test_a_report_of_several_models_and_of_text_that_is_markup(
    model: Path, tmp_path: Path
) -> None:
    both = gb.Ensemble([gb.load(model), gb.load(model)])
    chips = coloured_chips(2).assign_attrs(title="<script>alert(1)</script>")
    out = gb.write_report(both, chips, tmp_path / "r.html", progress=False)
    text = out.read_text()
    assert "<script" not in text
    page = Page(text)
    assert "Training of member 2" in page.text
    assert "<script>alert(1)</script>" in page.text


def test_a_failed_report_leaves_no_file(model: Path, tmp_path: Path) -> None:
    radar = make_scene(64, 64, bands=("VV_asc", "B02", "B03"))
    with pytest.raises(gb.CubeError, match="B04"):
        gb.write_report(model, radar, tmp_path / "r.html", progress=False)
    with pytest.raises(ValueError, match=r"end with .html, got .*r.pdf"):
        gb.write_report(model, radar, tmp_path / "r.pdf")
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        gb.write_report(model, radar, tmp_path / "r.html", samples=0)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model with an interval, a map of a new scene, regions, plots, folds."""
    folder = tmp_path_factory.mktemp("audit")
    ground = make_scene(128, 128, bands=BANDS)
    new = make_scene(96, 80, bands=BANDS, seed=1)
    model = gb.fit(ground, "quick", interval=0.5, **QUICK | {"block": 32})
    model.save(folder / "model")
    model.predict_to(folder / "map.tif", new, applicability=True, progress=False)
    left, bottom, right, top = new.rio.bounds()
    regions = {
        "north": (left, top - 480, right, top),
        "south": (left, bottom, right, top - 480),
    }
    draw = np.random.default_rng(0)
    plots = pd.DataFrame(
        {"x": draw.uniform(left, right, 40), "y": draw.uniform(bottom, top, 40)}
    )
    at = {"x": plots.x.to_xarray(), "y": plots.y.to_xarray()}
    plots["agb"] = new.agb.sel(at, method="nearest").values
    folds = gb.make_folds(ground, 2, block=32, buffer=4)
    validation = gb.cross_validate(ground, "quick", folds, **QUICK)
    return {
        "folder": folder,
        "model": model,
        "cube": new,
        "regions": regions,
        "plots": plots,
        "validation": validation,
    }


@pytest.mark.slow
def test_a_report_has_split_interval_applicability_and_totals(
    audited: dict[str, Any], tmp_path: Path
) -> None:
    folder, cube, model = audited["folder"], audited["cube"], audited["model"]
    out = gb.write_report(
        folder / "model",
        cube,
        tmp_path / "r.html",
        map=folder / "map.tif",
        regions=audited["regions"],
        plots=audited["plots"],
        validation=audited["validation"],
        progress=False,
    )
    page = Page(out.read_text())
    assert page.headings[:8] == [
        *("About", "Data and split", "Error", "Error plots"),
        *("Prediction interval", "Area of applicability", "Totals", "The map"),
    ]
    # The split: what trained, and the cross-validation with its folds and block size.
    data = model.provenance["data"]
    assert data["fingerprint"] in page.text
    assert f"{data['training']['places']:,} blocks of a scene" in page.text
    assert "the pixels of a fold are held out together." in page.text
    assert audited["validation"].advice in page.text
    crossed = audited["validation"].evaluate().loc["all"]
    assert f"{crossed['bias']:.1f} ({crossed['bias_lower']:.1f} to" in page.text
    # The interval: what was promised, what it held, by predicted class.
    assert str(model.calibration) in page.text
    scores = model.evaluate(cube, by="predicted")
    assert f"{100 * scores['coverage']['all']:.1f} % coverage on this cube" in page.text
    assert "50 % nominal coverage" in page.text
    where = model.applicability(cube).applicable.values
    share = 100 * (where == 1).sum() / np.isfinite(where).sum()
    assert f"{share:.1f} % of the mapped pixels are inside" in page.text
    totals = gb.totals(
        folder / "map.tif", audited["regions"], audited["plots"], progress=False
    )
    for name, row in totals.iterrows():
        assert str(name) in page.text
        ends = f"({row['total_lower']:,.0f} to {row['total_upper']:,.0f})"
        if row["verdict"] == "broken":
            ends = "(no interval)"
        assert f"{row['total']:,.0f} {ends}" in page.text
        assert f"{row['carbon']:,.0f} (" in page.text
    assert "design-based" in page.text
    for check in totals.attrs["checks"]:
        assert check["check"] in page.text
    made = gb.provenance(folder / "map.tif")
    assert made["model"]["fingerprint"][:12] in page.text
    assert all(link.startswith("#section-") for link in page.links)


@pytest.mark.slow
def test_totals_in_a_report_rest_on_cross_validation_where_there_are_no_plots(
    audited: dict[str, Any], tmp_path: Path
) -> None:
    out = gb.write_report(
        audited["model"],
        audited["cube"].drop_vars("agb"),
        tmp_path / "r.html",
        regions=audited["regions"],
        validation=audited["validation"],
        confidence=0.9,
        progress=False,
    )
    page = Page(out.read_text())
    assert "model-based" in page.text
    assert "In brackets: confidence intervals of 90 %" in page.text
    assert "There is no error to report" in page.text


@pytest.mark.slow
def test_errors_on_the_training_data_have_a_warning(
    model: Path, tmp_path: Path
) -> None:
    trained, other = (make_scene(64, 80, bands=BANDS, seed=seed) for seed in (0, 1))
    other = other.assign_coords(x=other.x + 10_000)  # other ground too
    for scene, said in ((trained, True), (other, False)):
        out = gb.write_report(model, scene, tmp_path / "r.html", progress=False)
        assert ("errors below are too small" in out.read_text()) is said


@pytest.mark.slow
def test_a_report_of_another_map_or_without_residuals_raises(
    audited: dict[str, Any], tmp_path: Path
) -> None:
    folder, cube = audited["folder"], audited["cube"]
    out = tmp_path / "r.html"
    with pytest.raises(ValueError, match="need plots=, residuals= or validation="):
        gb.write_report(folder / "model", cube, out, regions=audited["regions"])
    part = cube.isel(y=slice(0, 64))
    with pytest.raises(gb.CubeError, match="map must be of the cube, with 64 along"):
        gb.write_report(folder / "model", part, out, map=folder / "map.tif")
    moved = cube.assign_coords(x=cube.x + 10)
    with pytest.raises(gb.CubeError, match="another 'x': it begins at"):
        gb.write_report(folder / "model", moved, out, map=folder / "map.tif")
    assert not out.exists()
