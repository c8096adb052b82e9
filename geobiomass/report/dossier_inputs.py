"""Sections of a dossier on its design and its inputs."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, version
from typing import Any

from markupsafe import Markup

from geobiomass.accounting.mass import open_target
from geobiomass.cube.areas import pixel_size
from geobiomass.maps.reading import open_map
from geobiomass.metadata.provenance import provenance
from geobiomass.report.dossier_findings import Findings
from geobiomass.report.page import heading, join, paragraph, text_table
from geobiomass.training.json_files import parse_json

_ESTIMATORS = {
    "plots": "mean of the plots, sum of w y (Cochran 1977)",
    "difference": "mean of the map X, corrected by its mean error at the plots: "
    "X + sum of w (y - x) (Särndal et al. 1992; Næsset et al. 2011)",
    "regression": "mean of the plots, moved along the regression line of plots on map: "
    "sum of w y + b (X - sum of w x) (Särndal et al. 1992; McRoberts et al. 2013)",
    "model": "sum of the map less the mean error of held-out pixels of similar "
    "predictions",
}
_VARIANCES = {
    "random": "sum over strata of (1 - f) n / (n - 1) times the squares of u less its "
    "mean; u = w g e of a plot, or the sum of u of a cluster (Cochran 1977; Särndal et "
    "al. 1992)",
    "poststrata": "sum of W s² / n + sum of (1 - W) s² / n², over post-strata "
    "(Bechtold and Patterson 2005)",
    "systematic": "n / (2 P) times the sum of (u - u')² over P pairs of neighbours on "
    "the grid (Wolter 2007)",
    "model": "sum over pairs of pixels of the covariance of their errors, by their "
    "distance (variogram of the held-out errors)",
}
_INTERVALS = {
    "t": "Student's t",
    "Hall": "Hall's transformation for skewed plots (Hall 1992)",
    "all zero": "exact bound, as all plots are zero (Clopper and Pearson 1934)",
    "normal": "quantiles of the normal distribution",
    "none": "no interval: notes and checks say why",
}
_PACKAGES = (
    *("numpy", "pandas", "scipy", "xarray", "dask", "zarr", "rasterio"),
    *("rioxarray", "odc-geo", "pyproj", "shapely", "pyogrio", "geopandas"),
)
_COLUMNS_OF_PLOTS = ("observed", "stratum", "probability", "cluster")


def design(found: Findings) -> Markup:
    """Return how plots were drawn, and which formulas were used, by which rule."""
    table, given = found.table, found.call.arguments
    about = table.attrs.get("design")
    kinds = table["interval"].value_counts()
    asked = given.get("estimator", "auto")
    facts = {"inference": f"{table.attrs['based_on']}-based"}
    if about is not None:
        facts["plots were drawn"] = _drawn(about["design"], given)
        facts["estimator asked for"] = (
            "auto: the regression, and the difference where most plots are 0 and fewer "
            "than 10 above"
            if asked == "auto"
            else str(asked)
        )
        facts["rule of intervals"] = (
            "auto: by the number of plots, skewness and zeros "
            "(geobiomass.statistics.interval_of_mean)"
            if about["interval"] == "auto"
            else "Student's t"
        )
    facts |= {
        f"estimator used, {method}": _ESTIMATORS[method]
        for method in dict.fromkeys(table["method"])
    }
    facts["variance"] = _VARIANCES["model" if about is None else about["design"]]
    facts |= {
        f"interval, {kind}": f"{_INTERVALS.get(str(kind), kind)} ({count} of "
        f"{len(table)} regions)"
        for kind, count in kinds.items()
    }
    facts["confidence"] = f"{100 * table.attrs['confidence']:g} %"
    facts["hectares without a value"] = f"rule {table.attrs['unmapped']!r}"
    symbols = (
        "w: weight of a plot; y, x: biomass of the plot and of the map there; X: mean "
        "of the map; b: slope; e: residual; g: g weight; f: share of the population "
        "that was sampled; n: number of plots; W, s²: share of the area and variance "
        "of a stratum."
    )
    return join([_texts(facts), paragraph(symbols)])


def _drawn(kind: str, given: Any) -> str:
    words = {
        "random": "at random",
        "systematic": "on a systematic grid",
        "poststrata": "without regard to the post-strata",
    }[kind]
    if "strata" in given:
        words += ", in strata"
    if "cluster" in given:
        words += f", in clusters (column {given['cluster']!r})"
    if "probability" in given:
        words += f", with unequal probabilities (column {given['probability']!r})"
    return f"{words}: as the call says; no check can see it"


def inputs(found: Findings) -> Markup:
    """Return files with fingerprints, facts of map and plots, and the call."""
    given = found.call.arguments
    files = [(name, one.path, one.of, one.sha256) for name, one in found.fingerprints]
    settings = {
        name: repr(value)
        for name, value in given.items()
        if name not in [argument for argument, _ in found.fingerprints]
    }
    used = found.software
    packages = ", ".join(f"{n} {v}" for n, v in package_versions(found).items())
    versions = {"packages": packages, "python": used["python"]}
    versions |= {"system": used["system"], "commit": _commit()}
    parts = [
        text_table(("argument", "path", "SHA-256 of", "SHA-256"), files),
        heading("Map"),
        _texts(_of_map(given)),
    ]
    if "plots" in given:
        parts += [heading("Plots"), _texts(_of_plots(found))]
    settings = settings or {"none": "all settings have their defaults"}
    parts += [heading("Settings as called"), _texts(settings)]
    return join([*parts, heading("Software"), _texts(versions)])


def _texts(facts: dict[str, str]) -> Markup:
    return text_table((), [*facts.items()])


def _of_map(given: Any) -> dict[str, str]:
    source = open_map(given["map"])
    layer, target = open_target(source, given.get("variable"))
    down, across = pixel_size(layer)
    facts = {
        "layer": f"{layer.name}, {target.units}",
        "size": f"{layer.sizes['y']:,} x {layer.sizes['x']:,} pixels",
        "CRS": str(layer.rio.crs),
        "pixel": f"{down:.6g} x {across:.6g} m",
    }
    try:
        known = provenance(given["map"])
    except ValueError:
        return facts | {"model": "not recorded: other software made the map"}
    mark = (known.get("model") or {}).get("fingerprint")
    facts["model's fingerprint"] = str(mark or "not recorded")
    return facts | {name: str(text) for name, text in known.main_facts().items()}


def _of_plots(found: Findings) -> dict[str, str]:
    table, given = found.table, found.call.arguments
    facts = {
        "in the regions": f"{int(table['plots'].sum())} plots",
        "columns used": ", ".join(
            f"{given.get(name, 'agb')!r} ({name})"
            for name in _COLUMNS_OF_PLOTS
            if name == "observed" or name in given
        ),
        "trained the model": str(table.attrs.get("plots_trained", "unknown")),
    }
    left = {n: count for n, count in table.attrs["left_out"].items() if count}
    words = ", ".join(f"{n.replace('_', ' ')}: {count}" for n, count in left.items())
    return facts | {"left out": words or "none"}


def package_versions(found: Findings) -> dict[str, str]:
    """Return the versions of the packages that totals are computed with."""
    ours = {"geobiomass": found.software["packages"]["geobiomass"]}
    others = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            others[name] = version(name)
    return ours | others


def _commit() -> str:
    """Return the commit that the package was installed from, where pip recorded it."""
    try:
        record = distribution("geobiomass").read_text("direct_url.json")
    except PackageNotFoundError:
        record = None
    known = parse_json(record, "direct_url.json", dict) if record else {}
    return str((known.get("vcs_info") or {}).get("commit_id", "not recorded"))
