"""Names that users choose stay text in reports, notebooks and map pages."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_chips, make_scene

import geobiomass as gb
from geobiomass.info.notebook import dataset_html
from geobiomass.network import AttentionUNet
from geobiomass.report.page import from_markdown, page, paragraph
from geobiomass.summary import Summary, Table, html_environment

BANDS = ("B02", "B03", "B04")
EVIL = "<script>alert('1')</script> & <b>\"{{ 7 * 6 }}\"</b>"


class Parsed(HTMLParser):
    """The tags and the text of a page, as a browser reads them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def check_is_text(html: str, times: int | None = None) -> None:
    """Check that the name is on the page, as text and never as markup.

    Without `times` it may be there several times, such as in each check of a region.
    """
    parsed = Parsed(html)
    assert "script" not in parsed.tags
    found = "".join(parsed.words).count(EVIL)
    assert found == times if times is not None else found >= 1


@pytest.fixture(scope="module")
def model() -> gb.BiomassRegressor:
    torch.manual_seed(0)
    network = AttentionUNet(3, "test_resnet", (8, 8, 8, 8, 8))
    return gb.BiomassRegressor(network.eval(), BANDS, months=12)


def test_names_in_a_summary_are_text() -> None:
    frame = pd.DataFrame({EVIL: [1.0]}, index=pd.Index([EVIL], name=EVIL))
    table = Table(frame, note=EVIL, fold=EVIL)
    check_is_text(table.to_html(), 5)
    check_is_text(Table(frame, shares=True).to_html(), 3)
    check_is_text(Summary({EVIL: EVIL, "table": table}).to_html(), 7)


def test_names_in_a_cube_are_text_in_a_notebook() -> None:
    scene = make_scene(32, 32, bands=BANDS).assign_attrs(title=EVIL)
    ours, _, _ = dataset_html(scene).partition("<details>")
    check_is_text(ours, 1)
    check_is_text(gb.describe(scene).to_html(), 1)


def test_names_of_chips_titles_and_cards_in_a_report_are_text(
    model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    chips = make_chips(2).assign_coords(band=list(BANDS), chip=[EVIL, "b"])
    model.save(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text(f"# {EVIL}\n", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"README\.md has not all checksums"):
        path = gb.write_report(
            tmp_path / "model",
            chips.assign_attrs(title=EVIL),
            tmp_path / "r.html",
            progress=False,
        )
    # The chip's name in a caption, the cube's title there and in the provenance of
    # its map, and the card's heading.
    check_is_text(path.read_text(encoding="utf-8"), 4)


@pytest.mark.slow
def test_names_of_regions_in_a_report_are_text(
    model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    scene = make_scene(64, 64, bands=BANDS)
    left, bottom, right, top = scene.rio.bounds()
    at = np.random.default_rng(0).uniform(0, 1, (2, 30))
    plots = pd.DataFrame(
        {"x": left + at[0] * (right - left), "y": bottom + at[1] * (top - bottom)}
    ).assign(agb=100.0)
    plots.loc[::2, "agb"] = 90.0
    path = gb.write_report(
        model,
        scene,
        tmp_path / "r.html",
        regions={EVIL: (left, bottom, right, top)},
        plots=plots,
        progress=False,
    )
    check_is_text(path.read_text(encoding="utf-8"))


def test_a_title_a_section_and_a_paragraph_are_text() -> None:
    check_is_text(page(EVIL, [(EVIL, paragraph(EVIL))]), 5)


def test_html_in_a_card_is_text() -> None:
    card = from_markdown(f"# {EVIL}\n\n{EVIL}\n\n[a](javascript:alert(1))\n\n{EVIL}")
    check_is_text(card, 3)
    assert "href" not in card


def test_names_of_layers_and_units_are_text_on_a_map_page(tmp_path: Path) -> None:
    folium = pytest.importorskip("folium", reason="folium is not installed")
    from geobiomass.maps.web import explore_map

    scene = make_scene(40, 40)[["agb"]]
    scene["agb"] = scene["agb"].assign_attrs(units=EVIL)
    made = explore_map(scene, {EVIL: scene["agb"]}, tiles=None)
    assert isinstance(made, folium.Map)
    made.save(tmp_path / "map.html")
    html = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert "alert('1')" not in html
    assert "<script>alert" not in html
    lines = [line for line in html.split("\n") if "alert" in line]
    assert len(lines) == 2  # the name in the control of layers, and the units
    for line in lines:
        # Both are strings of JavaScript that Leaflet sets as HTML. Brackets are
        # escaped too, because branca renders the script as a template.
        assert "\\u0026lt;script\\u0026gt;alert" in line
        assert "\\u0026#123;\\u0026#123; 7 * 6" in line


def test_a_template_that_lacks_a_value_is_an_error() -> None:
    template = html_environment().get_template("report.html")
    with pytest.raises(jinja2.UndefinedError, match="'title' is undefined"):
        template.render(sections=[])


@pytest.mark.parametrize("name", html_environment().list_templates())
def test_no_template_switches_escaping_off(name: str) -> None:
    assert html_environment().autoescape is True
    source = (Path(gb.__file__).parent / "templates" / name).read_text("utf-8")
    assert "autoescape" not in source
    assert "safe" not in source


def test_the_html_of_a_summary_is_a_plain_string() -> None:
    # Not Markup: adding a user's own markup to that would escape it.
    assert type(Summary({"what": "a cube"}).to_html()) is str
    assert type(Table(pd.DataFrame({"a": [1]})).to_html()) is str
