"""How cubes and maps show themselves in Jupyter, though they are plain datasets.

A dataset's own HTML is xarray's. IPython lets a class be shown otherwise: a cube or a
map then says first what, where, how much and what is missing, and xarray's own view
folds out below. Other datasets are shown as before.
"""

from __future__ import annotations

from typing import Any

import xarray as xr


def show_in_notebook(shell: Any) -> None:
    """Register the view of datasets in an IPython shell."""
    formatter = shell.display_formatter.formatters["text/html"]
    formatter.for_type(xr.Dataset, dataset_html)


def show_as_xarray(shell: Any) -> None:
    """Take the view back."""
    shell.display_formatter.formatters["text/html"].pop(xr.Dataset, None)


def dataset_html(data: xr.Dataset) -> str:
    """Give the HTML of a dataset: ours over xarray's for cubes and maps.

    Nothing is computed for it: where dask has yet to compute pixels, what is missing
    is left open.
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
    """Give the facts of a cube or of a map of ours; None of any other dataset."""
    from geobiomass.cube import CubeError, check_cube
    from geobiomass.cube.summary import describe_cube
    from geobiomass.info.maps import describe_map

    if "image" in data:
        try:
            check_cube(data)
        except CubeError:  # another's dataset with an image
            return None
        return describe_cube(data, sample=False)
    ours = "agb" in data and data["agb"].attrs.get("units") == "Mg/ha"
    return describe_map(data) if ours and {"y", "x"} <= set(data["agb"].dims) else None
