"""HTML of cubes and maps in Jupyter.

Cubes and maps are plain datasets, whose HTML is xarray's. A formatter of IPython shows
our description of a cube or a map first, and xarray's HTML folded below it. Other
datasets are shown as before.
"""

from __future__ import annotations

from typing import Any

import xarray as xr


def show_in_notebook(shell: Any) -> None:
    """Register our HTML of datasets in an IPython shell."""
    formatter = shell.display_formatter.formatters["text/html"]
    formatter.for_type(xr.Dataset, dataset_html)


def show_as_xarray(shell: Any) -> None:
    """Remove our HTML of datasets from an IPython shell."""
    shell.display_formatter.formatters["text/html"].pop(xr.Dataset, None)


def dataset_html(data: xr.Dataset) -> str:
    """Return the HTML of a dataset: for cubes and maps ours, followed by xarray's.

    Nothing is computed: lazy pixels are not counted as present or missing.
    """
    plain = str(data._repr_html_())
    if plain.startswith("<pre>"):  # xr.set_options(display_style="text")
        return plain
    facts = _facts(data)
    if facts is None:
        return plain
    from markupsafe import Markup

    from geobiomass.summary import Summary, html_macros

    below = html_macros("summary.html").xarray_view(Markup(plain))
    return Summary(facts).to_html(below)


def _facts(data: xr.Dataset) -> dict[str, Any] | None:
    """Return the facts of a cube or of a map of ours; None for other datasets."""
    from geobiomass.cube import CubeError, check_cube
    from geobiomass.cube.quantity import target_of
    from geobiomass.cube.summary import describe_cube
    from geobiomass.info.maps import describe_map
    from geobiomass.maps.origin import PROVENANCE

    if "image" in data:
        try:
            check_cube(data)
        except CubeError:  # a dataset of another program, with an image
            return None
        return describe_cube(data, sample=False)
    name = target_of(data).name
    ours = "agb" in data and data["agb"].attrs.get("units") == "Mg/ha"
    ours |= name in data and PROVENANCE in data.attrs
    return describe_map(data) if ours and {"y", "x"} <= set(data[name].dims) else None
