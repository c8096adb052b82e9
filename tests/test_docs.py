"""The site: built without a warning, complete, and true to the code."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpydoc.validate
import pytest
import xarray as xr
from sphinx.util.inventory import InventoryFile

import geobiomass as gb
import pasture
from geobiomass.network import AttentionUNet

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

import links  # noqa: E402
from figures import make, network  # noqa: E402
from site_pages import commands, reference, schema  # noqa: E402

PAGES = sorted(
    path
    for path in DOCS.rglob("*.md")
    if not {"generated", "figures"} & set(path.relative_to(DOCS).parts)
)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as ``make docs`` does."""
    folder = tmp_path_factory.mktemp("docs")
    built = folder / "site"
    result = subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q"),
            *("-d", str(folder / "doctrees"), "-b", "html", str(DOCS), str(built)),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    return built


@pytest.mark.slow
def test_links_lead_somewhere_and_every_page_is_reached(site: Path) -> None:
    assert links.broken_links(site) == []
    reached, ahead = set(), [site / "index.html"]
    while ahead:
        page = ahead.pop()
        if page in reached or page.suffix != ".html":
            continue
        reached.add(page)
        for link in links.Page(page.read_text("utf-8")).links:
            target = (page.parent / link.split("#")[0]).resolve()
            if "://" not in link and target.is_file():
                ahead.append(target)
    sources = {path.relative_to(DOCS).with_suffix(".html") for path in PAGES}
    sources |= {p.relative_to(DOCS).with_suffix(".html") for p in _notebooks()}
    assert {site / page for page in sources} <= reached


@pytest.mark.slow
def test_every_public_name_and_method_has_its_entry(site: Path) -> None:
    with (site / "objects.inv").open("rb") as file:
        found = InventoryFile.load(file, "", lambda base, uri: uri)
    entries = {
        name for kind, names in found.items() if kind[:3] == "py:" for name in names
    }
    assert {name for name, _ in _public()} <= entries
    for module in ("geobiomass", "pasture"):
        for name in importlib.import_module(module).__all__:
            assert f"{module}.{name}" in entries


@pytest.mark.slow
def test_each_command_and_option_has_its_line(site: Path) -> None:
    for program in commands.PROGRAMS:
        page = site / "reference" / "generated" / f"command-{program}.html"
        text = re.sub(r"<[^>]+>", "", page.read_text("utf-8"))
        for words, command in commands.commands_of(program):
            assert words in text
            for parameter in command.params:
                if parameter.name != "help":
                    name = (parameter.opts or [parameter.name])[0]
                    if parameter.param_type_name == "argument":
                        name = parameter.metavar or name  # as the help calls it
                    assert name in text, words


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    text = '<h1 id="here"></h1><a href="{}">x</a>'
    for name, link in (
        ("good", "#here"),
        ("file", "other.html"),
        ("anchor", "good.html#there"),
    ):
        (tmp_path / f"{name}.html").write_text(text.format(link))
    (tmp_path / "web.html").write_text(text.format("https://example.org/none"))
    assert links.broken_links(tmp_path) == [
        "anchor.html: good.html#there",
        "file.html: other.html",
    ]


# What numpydoc must not find. Its other codes ask for a type beside each parameter,
# which our signatures have, and for sections that a short docstring has no need of.
FAULTS = {
    "PR02": "a parameter that there is not",
    "PR03": "parameters in another order",
    "SS01": "no summary",
    "GL08": "no docstring",
}


def test_docstrings_fit_their_signatures() -> None:
    faults = []
    for name, value in _public():
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        found = numpydoc.validate.validate(name)["errors"]
        faults += [f"{name}: {text}" for code, text in found if code in FAULTS]
        lacking = [text for code, text in found if code == "PR01"]
        if lacking and _must_list_parameters(name):
            faults.append(f"{name}: {lacking[0]}")
    assert faults == []


def _must_list_parameters(name: str) -> bool:
    """Return whether a docstring must list parameters: in the two packages' names.

    Elsewhere a sentence may be enough, as with a metric's update(prediction, target).
    """
    return name.startswith(("geobiomass.", "pasture.")) and name.count(".") <= 2


def _public() -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for module in reference.MODULES:
        loaded = importlib.import_module(module)
        for name in reference.public_names(module):
            value = getattr(loaded, name)
            found.append((f"{module}.{name}", value))
            if inspect.isclass(value):
                found += [
                    (f"{module}.{name}.{member}", getattr(value, member))
                    for member in reference.public_members(value)
                ]
    return found


def test_the_overview_names_what_the_reference_has() -> None:
    text = (DOCS / "api.md").read_text()
    for module in reference.MODULES:
        assert re.search(rf"\b{module.split('.')[-1]}\b", text), module
    for name in (*gb.__all__, *pasture.__all__):
        assert re.search(rf"\b{name}\b", text), name


def _python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda p: p.stem)
def test_code_in_pages_is_python_and_names_what_there_is(page: Path) -> None:
    for block in _python_blocks(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                module = {"gb": gb, "pasture": pasture}.get(node.value.id)
                if module is not None:
                    assert hasattr(module, node.attr), f"{node.value.id}.{node.attr}"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the files that how-to pages begin with."""
    folder = tmp_path_factory.mktemp("work")
    scene = gb.landscape(192, months=3, seed=1)
    gb.write_cube(scene, folder / "scene.zarr")
    model = gb.fit(scene, "quick", validation=0, epochs=1, progress=False)
    model.save(folder / "model")
    west, south, east, north = scene.rio.transform_bounds("EPSG:4326")
    ring = [(west, south), (east, south), (east, (south + north) / 2), (west, south)]
    outline = {"type": "Polygon", "coordinates": [ring]}
    (folder / "park.geojson").write_text(json.dumps(outline))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["polygon", "bands"])
def test_how_to_pages_run(
    name: str,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(work)
    scene = gb.open_cube("scene.zarr").compute()
    bands = {"red": "B04", "nir": "B08", "HH": "VV_asc", "HV": "VH_asc"}
    images = xr.Dataset(
        {new: scene.image.sel(band=old, drop=True) for new, old in bands.items()}
    ).rename(month="time")
    images[["red", "nir"]] = images[["red", "nir"]] / 10_000
    names = {
        "open_my_images": lambda: images,
        "open_my_biomass": lambda: scene.agb,
    }
    for block in _python_blocks(DOCS / "how-to" / f"{name}.md"):
        exec(compile(block, name, "exec"), names)
    if name == "polygon":
        assert "Mg/ha" in capsys.readouterr().out
        assert 0 < int(names["inside"].notnull().sum()) < scene.agb.size
        assert Path("park.tif").is_file()
    else:
        assert names["model"].bands == ("red", "nir", "HH", "HV")
        assert Path("mine.tif").is_file()


def test_every_picture_is_made_by_code() -> None:
    made = {*make.DRAWN, *make.DEMONSTRATED, *make.COMPARED}
    shown = set()
    for page in PAGES:
        for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text()):
            path = (page.parent / target).resolve()
            assert path.is_file(), f"{page}: {target}"
            shown.add(path.relative_to(DOCS).as_posix())
    assert shown == made
    kinds = {".png", ".jpg", ".jpeg", ".svg", ".gif", ".webp"}
    kept = {
        p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*") if p.suffix in kinds
    }
    assert kept == made
    for package, picture in make.DEMONSTRATED.values():
        (demo,) = (ROOT / package).rglob("demo.py")
        assert f'"{picture}"' in demo.read_text()
    for picture, script in make.COMPARED.items():
        assert f'"{picture}"' in (ROOT / "benchmarks" / script).read_text()


@pytest.mark.slow
def test_drawn_pictures_are_those_of_the_pages(tmp_path: Path) -> None:
    from matplotlib.image import imread

    for name in make.DRAWN:
        new, old = imread(make.draw(name, tmp_path)), imread(DOCS / name)
        assert new.shape == old.shape, f"{name}: run python docs/figures/make.py"
        # Edges of letters differ between versions of a library.
        differs = np.abs(new - old).max(axis=2) > 0.2
        assert differs.mean() < 0.005, f"{name}: run python docs/figures/make.py"


def test_the_drawing_has_the_network_s_own_sizes() -> None:
    unet = AttentionUNet(3, "resnet10t", (64, 48, 32, 24, 16))
    encoder, decoder = network.levels_of(unet)
    assert [level.stride for level in encoder] == [2, 4, 8, 16, 32]
    assert [level.stride for level in decoder] == [16, 8, 4, 2, 1]
    assert [level.channels for level in decoder] == [64, 48, 32, 24, 16]
    assert all(a.stride * 2 == b.stride for a, b in pairwise(encoder))
    assert encoder[0].channels == unet.attention[0].score[0].in_features


def test_the_schema_page_lists_every_band() -> None:
    page = schema.pages()["cube-schema.md"]
    for band in gb.landscape(64).band.values:
        assert f"| `{band}` |" in page


def _notebooks() -> list[Path]:
    return sorted((DOCS / "tutorials").glob("*.ipynb"))


@pytest.mark.parametrize("path", _notebooks(), ids=lambda path: path.stem)
def test_notebooks_are_small_and_say_nothing_of_a_machine(path: Path) -> None:
    text = path.read_text()
    assert len(text) < 300_000
    assert '"name": "stderr"' not in text
    assert not re.search(r"site-packages|/(home|root|Users)/", text)


def test_exit_codes_are_on_the_pages_of_commands() -> None:
    for page in commands.pages().values():
        assert "3 some blocks of a map could not be computed" in " ".join(page.split())
