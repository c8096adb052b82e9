"""Names from outside stay names: no paths, no markup, no formulas, no commands."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_chips, make_scene
from markdown_it import MarkdownIt

import geobiomass as gb
from geobiomass.cli.output import say
from geobiomass.metadata.provenance import Provenance
from geobiomass.models.card import model_card
from geobiomass.network import AttentionUNet
from geobiomass.outside_text import (
    as_code,
    as_markdown,
    check_variable_names,
    file_names,
    printable,
    readable_cells,
    safe_cell,
    safe_cells,
)
from geobiomass.report.page import from_markdown
from geobiomass.summary import Summary, Table

BANDS = ("B02", "B03", "B04")
IMAGE = '"><img src=x onerror=alert(1)>'
SCRIPT = "</script><script>alert(1)</script>"
ESCAPE = "\x1b]0;title\x07\x1b[31mred\u202e\x9b2J"
PATHS = (
    *("../evil", "..\\evil", "/etc/evil", "C:\\evil", "a/b", "..", ".", "", ".hidden"),
    *("CON", "nul.txt", "COM1", "x\0y", "x" * 300, "point.", "space ", "-rf", "a:b"),
    *(IMAGE, SCRIPT, ESCAPE, "\ud800", "%2e%2e%2f", "~root", "$(id)", "\n", "a*?"),
)


@pytest.fixture(scope="module")
def model() -> gb.BiomassRegressor:
    torch.manual_seed(0)
    network = AttentionUNet(3, "test_resnet", (8, 8, 8, 8, 8))
    return gb.BiomassRegressor(network.eval(), BANDS, months=12)


# --- names of files ---


def test_a_name_of_a_file_is_one_and_no_two_names_share_it() -> None:
    plain = ["chip001", "0060c0a5", "T33UVP_2021-07", "x (1)", "日本", "a.b.tif"]
    assert file_names(plain) == plain
    with pytest.warns(UserWarning, match=f"{len(PATHS)} of {len(PATHS) + 1} chip ids"):
        made = file_names([*PATHS, "plain"], "chip ids")
    assert made[-1] == "plain"
    for name in made:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,149}", name), name
        assert not re.fullmatch(r"(?i)(con|nul|com1)(-txt)?", name)
    assert len({name.lower() for name in made}) == len(made)
    # The same name has the same file alone, so a part of the chips continues.
    with pytest.warns(UserWarning, match=r"1 of 1 names"):
        assert file_names(["../evil"]) == made[:1]


def test_names_that_become_equal_are_told_apart() -> None:
    with pytest.warns(UserWarning, match="of 4 names"):
        first, second, accent, other = file_names(["a", "A", "\u00e4", "a\u0308"])
    assert len({first.lower(), second.lower(), accent, other}) == 4
    with pytest.warns(UserWarning, match="1 of 1 names"):
        (cleaned,) = file_names(["../evil"])
    with pytest.warns(UserWarning, match="2 of 2 names"):  # the name of another's file
        pair = file_names(["../evil", cleaned])
    assert len(set(pair)) == 2
    with pytest.raises(ValueError, match=r"names must be different, got 1 .* 'a'"):
        file_names(["a", "b", "a"])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_files_of_chips_never_leave_their_folder(
    model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    import rasterio

    ids = ["../evil", "good", SCRIPT, "/" + "x" * 300]
    chips = make_chips(4).assign_coords(chip=ids, band=list(BANDS))
    folder = tmp_path / "in" / "maps"
    folder.parent.mkdir()
    for _ in range(2):  # the second call knows its files again
        with pytest.warns(UserWarning, match=r"3 of 4 chip ids .* '\.\./evil' as"):
            model.predict_chips_to(folder, chips, progress=False, check="off")
    files = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.parent for path in files} == {folder}
    assert len(files) == 4
    expected = model.predict(chips, check="off").agb.values.clip(0)
    found = {}
    for path in files:
        with rasterio.open(path) as source:
            found[source.tags().get("geobiomass_chip", path.name)] = source.read(1)
    for number, name in enumerate(["../evil", "good_agbm.tif", SCRIPT, ids[3]]):
        np.testing.assert_array_equal(found[name], expected[number])


def test_names_of_variables_are_folders_within_the_group(tmp_path: Path) -> None:
    scene = make_scene(32, 32, bands=BANDS)
    for name in ("../evil", "/evil", "a/b", "a\\b", "", ".zattrs", "zarr.json", "x\0"):
        with pytest.raises(ValueError, match="of the cube cannot be one"):
            check_variable_names([name], "the cube")
    with pytest.raises(ValueError, match=r"'\.\./evil' of the cube cannot be one"):
        gb.write_cube(scene.assign({"../evil": scene["agb"]}), tmp_path / "c.zarr")
    assert not list(tmp_path.iterdir())


def test_a_table_of_a_download_names_files_of_its_folder(tmp_path: Path) -> None:
    from geobiomass.sources.biomassters.bucket import Bucket, _files_in_table

    names = ["0060c0a5_S1_00.tif", "../../evil/0060c0a5_S1_01.tif", "/x/a_S1_02.tif"]
    table = pd.DataFrame({"filename": names, "size": 1, "split": "test"})
    table.to_csv(tmp_path / "table.csv", index=False)
    bucket = Bucket(None, "s3://bucket", "bucket")
    found = _files_in_table(
        bucket, tmp_path / "test_features", tmp_path / "table.csv", "test"
    )
    assert [one.path for one in found] == [tmp_path / "test_features" / names[0]]


# --- markup ---


@pytest.mark.parametrize("evil", [IMAGE, SCRIPT, "[a](javascript:alert(1))", "<b>|x|"])
def test_names_in_a_card_are_text(evil: str) -> None:
    settings = {
        "bands": [evil],
        "months": 12,
        "outputs": [evil],
        "units": evil,
        "long_name": evil,
        "network": {"encoder": evil},
        "recipe": None,
    }
    data = {
        "title": f"{evil}\n# heading",
        "kind": "scene",
        "training": {"places": 1, "pixels": 4, "labels": 4},
        "validation": None,
        "fingerprint": "0" * 64,
        "bounds": [0, 0, 1, 1],
        "crs": evil,
    }
    environment = {"device": "cpu", "python": "3", "packages": {"torch": "2"}}
    card = model_card(settings, {"data": data, "environment": environment}, "load()")
    body = card.split("\n---\n", 1)[1]
    assert "<" not in body
    # As a page shows it that does let HTML through.
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    assert not re.search(r"<(script|img|b|a)\b", html)
    assert html.count("<h1>") == 1
    cell = html.split("<tbody>\n<tr>\n<td>")[1].split("</td>")[0]
    assert unescape(cell) == evil
    assert as_code("test_resnet-1.5") == "`test_resnet-1.5`"
    assert as_markdown("VV_asc and B8A, Mg/ha (10 m)") == "VV_asc and B8A, Mg/ha (10 m)"


def test_a_card_loads_nothing_into_the_report() -> None:
    html = from_markdown(
        "![a](http://example.org/pixel.png) <img src=x>\n\n[b](file:x)"
    )
    assert "<img" not in html
    assert "href" not in html.replace('href="http://example.org/pixel.png"', "")


def test_names_on_a_map_page_are_text(tmp_path: Path) -> None:
    pytest.importorskip("folium", reason="folium is not installed")
    from geobiomass.maps.web import explore_map

    scene = make_scene(40, 40)[["agb"]]
    scene["agb"] = scene["agb"].assign_attrs(units=SCRIPT)
    made = explore_map(scene, {IMAGE: scene["agb"], SCRIPT: scene["agb"]}, tiles=None)
    made.save(tmp_path / "map.html")
    html = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert "<img src=x" not in html
    assert "</script><script>" not in html


def test_names_of_regions_and_bands_in_html_are_text() -> None:
    frame = pd.DataFrame({IMAGE: [1.0]}, index=pd.Index([SCRIPT], name=IMAGE))
    note = {"model": {"fingerprint": IMAGE, "bands": [SCRIPT]}, "software": []}
    scene = make_scene(32, 32, bands=BANDS)
    scene = scene.assign_coords(band=[IMAGE, SCRIPT, "B04"])
    for html in (
        Table(frame, note=IMAGE).to_html(),
        Summary({SCRIPT: IMAGE})._repr_html_(),
        Provenance(note)._repr_html_(),
        gb.describe(scene)._repr_html_(),
    ):
        assert "<img" not in html
        assert "<script" not in html
        assert "&lt;script" in html


def test_a_provenance_of_another_form_is_said_to_be() -> None:
    for note in ({}, {"model": 1, "software": 2}, {"model": {"bands": 3}}):
        assert "cannot be read" in str(Provenance(note))


# --- a terminal ---


def test_what_is_printed_does_not_control_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    frame = pd.DataFrame({ESCAPE: [ESCAPE]}, index=[ESCAPE])
    say(f"{Summary({ESCAPE: ESCAPE, 'table': Table(frame, note=ESCAPE)})}\n{frame}")
    shown = capsys.readouterr().out
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800]", shown)
    assert shown.count("\\x1b[31mred\\u202e\\x9b2J") >= 6
    assert printable("a\tb\nc: ä, 日本, 10 %") == "a\tb\nc: ä, 日本, 10 %"


# --- cells ---


def test_text_in_written_tables_is_no_formula(tmp_path: Path) -> None:
    import pasture

    formulas = ["=cmd|' /C calc'!A0", "+1+x", "-x", "@SUM(A1)", "\t=x", "\r=x", " =x"]
    formulas += ["\uff1dx", "'=x", "\n=x"]
    assert [safe_cell(text) for text in formulas] == [f"'{text}" for text in formulas]
    numbers = ["-5", "+3.2", "-1e-5", "-", "text", "", "a=b", 'say "x"', -5.0, None]
    assert [safe_cell(cell) for cell in numbers] == numbers
    table = pd.DataFrame(
        {"text": formulas, "number": np.arange(10.0) - 5, "=c": numbers},
        index=pd.Index(formulas, name="=i"),
    )
    pd.testing.assert_frame_equal(readable_cells(safe_cells(table)), table)

    grams = pd.DataFrame({"Dry_Total_g": [1.5, 2.5]}, index=["=1+1.jpg", "a.jpg"])
    pasture.write_submission(grams, tmp_path / "s.csv")
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert lines[1:] == ["'=1+1.jpg__Dry_Total_g,1.5", "a.jpg__Dry_Total_g,2.5"]


def test_residuals_of_chips_called_like_formulas_are_read_back(tmp_path: Path) -> None:
    from geobiomass.evaluation.residuals import read_residuals, write_residuals

    chips = make_chips(2).assign_coords(chip=["=1+1", "+b"])
    table = gb.residuals(chips[["agb"]] + 1, chips, pixel=10.0)
    write_residuals(table, tmp_path / "r.csv")
    text = (tmp_path / "r.csv").read_text(encoding="utf-8")
    assert "'=1+1" in text
    assert not re.search(r"(^|,)[=+@]", text, re.M)
    pd.testing.assert_frame_equal(read_residuals(tmp_path / "r.csv"), table)


# --- STAC items ---


def test_links_of_an_item_are_addresses() -> None:
    from geobiomass.metadata.stac_item import _scene_links

    places = [
        "https://example.org/items",
        "javascript:alert(1)//",
        "file:///etc",
        IMAGE,
    ]
    groups = [{"at": at, "ids": ["one"]} for at in places]
    known = Provenance({"input": {"scenes": {"2021-07": groups}}})
    links = [link.to_dict()["href"] for link in _scene_links(known)]
    assert links == ["https://example.org/items/one"]
    assert json.dumps(links)
