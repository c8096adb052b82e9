"""Settings of the site: ``make docs`` builds it with Sphinx, warnings as errors.

Nothing is fetched while it builds: CI has no internet.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent))

from site_pages import commands, reference, schema  # noqa: E402

import geobiomass  # noqa: E402

project = "geobiomass"
author = "the geobiomass developers"
version = release = geobiomass.__version__

extensions = [
    "myst_nb",
    "numpydoc",  # brings those that read docstrings out of modules
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["figures", "site_pages", "**/.ipynb_checkpoints"]
nitpicky = True
# What other libraries define is written out in full, and not linked: their lists of
# names would have to be fetched.
_OTHERS = (
    "collections|datetime|folium|lightning|matplotlib|np|odc|npt|numpy|os|pandas|pathlib|pd|PIL|pystac"
    "|torch|torchmetrics|typing|xarray|xr"
)
nitpick_ignore_regex = [
    ("py:.*", rf"({_OTHERS})\..*"),
    # The same where a module imports them for type checkers alone.
    ("py:class", "Axes|CRS|Figure|GeoBox|Path|Scene|Store"),
    # Names of a choice of words, which the docstring lists.
    ("py:class", "Blend|Dtype|Layers|Precision|Resampling|Tensor|Validation"),
    # Tuples in the fields of a dataclass are cut at the comma.
    ("py:class", r"tuple\[.*"),
    # Parts of ours that a user is handed and has no need to make.
    ("py:class", r"geobiomass\.recipes\.schedule\.PlannedStage"),
    ("py:class", r"geobiomass\.(cube\.region\.Region|tiles\.Sample|tiles\.Window)"),
    ("py:class", r"geobiomass\.data\.(groups\.Ground|label_places\.LabelPlaces)"),
    ("py:class", r"geobiomass\.network\.rising_curve\.RisingCurve"),
    ("py:class", r"Given|geobiomass\.accounting\.carbon\.CarbonFactor"),
    ("py:data", r"geobiomass\.accounting\.carbon_factors\.DEAD_WOOD"),
    ("py:class", r"geobiomass\.(models\.map_error\.MapError|cube\.quantity\.Quantity)"),
    ("py:class", r"geobiomass\.cube\.areas\.NamedRegions"),
    ("py:class", r"(geobiomass\.models\.predictor\.)?Predictor"),
    ("py:class", r"geobiomass\.training\.(sharding\.BatchSource|start\.Start)"),
    ("py:class", r"geobiomass\.sources\.stac\.cloud_masks\.CloudMask"),
    ("py:class", r"pasture\.(model\.PastureModel|swards\.leaves\.Grass)"),
]

# Notebooks are run by tests/test_notebooks.py; pages show what was committed.
nb_execution_mode = "off"
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4


maximum_signature_line_length = 60
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_title = "geobiomass"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
copyright = "the geobiomass developers, Apache-2.0"

# Only `make linkcheck` asks the internet.
linkcheck_timeout = 30
linkcheck_ignore = [r"https://objects\.example\.org.*"]


def setup(app):
    """Write the pages that are made from the code, before sources are looked for."""
    app.connect("builder-inited", _write_pages)


def _write_pages(app):
    folder = Path(app.srcdir) / "reference" / "generated"
    pages = reference.pages() | commands.pages() | schema.pages()
    folder.mkdir(exist_ok=True)
    for stale in {path.name for path in folder.iterdir()} - set(pages):
        (folder / stale).unlink()
    for name, text in pages.items():
        path = folder / name
        # Sphinx reads again what is newer than what it built.
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
