"""Sections for an auditor: split, calibration, applicability, totals, provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from geobiomass import plots
from geobiomass.cube.quantity import AGB
from geobiomass.metadata.provenance import provenance
from geobiomass.metadata.text import part_in_words
from geobiomass.plots.accuracy import digits_of
from geobiomass.report.material import Material
from geobiomass.report.page import (
    boxes,
    embedded,
    facts_table,
    figure,
    heading,
    join,
    paragraph,
)
from geobiomass.report.totals_tables import checks_table, totals_table
from geobiomass.summary import Table

_METRICS = {
    "pixels": "pixels",
    "average_rmse": "average RMSE",
    "pixel_rmse": "RMSE",
    "mae": "mean absolute error",
    "bias": "bias",
    "r2": "R²",
}


# --- data and split ---------------------------------------------------------------


def split(material: Material) -> Markup:
    """Return the training data, the held-out data and the error on held-out data."""
    members = getattr(material.model, "models", [material.model])
    parts = [
        _member(
            getattr(member, "provenance", {}),
            number if len(members) > 1 else 0,
            material.target.units,
        )
        for number, member in enumerate(members, 1)
    ]
    for error in getattr(material.model, "map_errors", ()):
        parts.append(paragraph(f"Maps of held-out places: {error}."))
        if error.problem is not None:
            parts.append(paragraph(error.problem))
    if material.validation is not None:
        parts.append(_cross_validated(material.validation))
    return join(parts)


def _member(known: Mapping[str, Any], number: int, units: str) -> Markup:
    data = known.get("data")
    if not data:
        name = f"Member {number}: the" if number else "The"
        return paragraph(f"{name} training data of the weights is not known.")
    unit = "chips" if data["kind"] == "chips" else "blocks of a scene"
    trained, held = data["training"], data["validation"]
    facts = {
        "data": data.get("title", "untitled"),
        "fingerprint": data["fingerprint"],
        "trained on": part_in_words(trained, unit),
        "held out": part_in_words(held, unit) if held else "nothing",
    }
    if data.get("bounds"):
        edges = ", ".join(f"{edge:.10g}" for edge in data["bounds"])
        facts["bounds"] = f"{edges} in {data['crs'] or 'an unknown CRS'}"
    if "fold" in known:
        fold = known["fold"]
        width = f", with a buffer of {fold['buffer']} pixels"
        facts["split"] = (
            f"fold {fold['number'] + 1} of {fold['count']}, by {fold['by']}"
            f"{width if fold['buffer'] else ''}"
        )
    head = heading(f"Member {number}") if number else ""
    table = known.get("validation")
    if not table:
        missing = paragraph("The error on held-out data was not measured.")
        return join([head, facts_table(facts), missing])
    frame = pd.DataFrame.from_dict(table, orient="index")
    frame["pixels"] = frame["pixels"].astype(int)
    note = f"Errors on held-out data, in {units}; R² has no unit."
    return join([head, facts_table(facts), _table(frame, note, units)])


def _cross_validated(validation: Any) -> Markup:
    parts = [
        heading("Cross-validation"),
        paragraph(
            f"{validation.folds!r}. Each pixel is predicted by the model that was not "
            "trained on it. Confidence intervals are of 95 %, by a bootstrap over "
            "blocks or chips."
        ),
        metrics_table(validation.evaluate()),
    ]
    scene = validation.cube
    if "chip" not in scene.dims:
        parts.append(
            figure(
                "Folds: the pixels of a fold are held out together.",
                lambda ax: plots.folds(scene, validation.folds, ax),
                (6, 4.4),
            )
        )
        parts.append(paragraph(f"Size of blocks: {validation.advice}."))
    return join(parts)


def metrics_table(table: pd.DataFrame, decimals: int | None = None) -> Table:
    """Return metrics with their confidence intervals, one row for each bin."""
    units = str(table.attrs.get("units", AGB.units))
    decimals = digits_of(units) if decimals is None else decimals
    shown = pd.DataFrame(index=table.index)
    for name, title in _METRICS.items():
        shown[title] = _with_ends(table, name, 3 if name == "r2" else decimals)
    if "coverage" in table:
        shown["coverage, %"] = _with_ends(100 * table, "coverage", decimals)
        shown["width"] = _with_ends(table, "width", decimals)
    shown.index.name = f"{table.index.name}, {units}"
    return Table(shown, f"Errors and widths of intervals in {units}.")


def _with_ends(table: pd.DataFrame, name: str, decimals: int) -> list[str]:
    if name == "pixels":
        return [f"{int(value):,}" for value in table[name]]
    ends = [f"{name}_lower", f"{name}_upper"]
    columns = [name, *(ends if set(ends) <= set(table) else ())]
    return [
        _figure_of(values, decimals)
        for values in table[columns].itertuples(index=False, name=None)
    ]


def _figure_of(values: tuple[float, ...], decimals: int) -> str:
    value, *ends = values
    if not np.isfinite(value):
        return "-"
    text = f"{value:.{decimals}f}"
    if len(ends) == 2 and np.isfinite(ends).all():
        text += f" ({ends[0]:.{decimals}f} to {ends[1]:.{decimals}f})"
    return text


def _table(frame: pd.DataFrame, note: str, units: str) -> Table:
    names = {name: title for name, title in _METRICS.items() if name in frame}
    shown = frame[list(names)].rename(columns=names)
    shown.index.name = f"observed, {units}"
    return Table(shown, note, decimals=2)


# --- intervals --------------------------------------------------------------------


def calibration(material: Material) -> Markup:
    """Return the calibration of prediction intervals and their coverage on the cube."""
    known = material.model.calibration
    if known is None:
        return paragraph(
            "This model has no prediction interval: train with interval=0.9, or call "
            "model.calibrate(cube)."
        )
    parts: list[Markup | Table] = [paragraph(f"{known}.")]
    word, units = material.target.short, material.target.units
    if known.edges:
        note = (
            f"Classes of predicted {word}, {units}. The margin is added at both ends."
        )
        parts.append(Table(known.table, note))
    if not material.compared:
        return join(parts)
    table = material.by_predicted.table(bootstrap=material.bootstrap)
    overall: Any = table.loc["all"]
    parts += [
        boxes(
            {
                "nominal coverage": f"{100 * known.interval:.4g} %",
                "coverage on this cube": f"{100 * overall['coverage']:.1f} %",
                "mean width": f"{overall['width']:.{digits_of(units)}f} {units}",
            }
        ),
        figure(
            f"Coverage: the share of pixels whose observed {word} is in their "
            f"interval. Intervals are calibrated by predicted {word}.",
            lambda ax: plots.calibration(
                material.pixels, ax=ax, interval=known.interval
            ),
            (6.4, 4.2),
        ),
        figure(
            f"Mean observed over mean predicted {word}, by class of predicted {word}: "
            "on the dashed line the predictions of a class are unbiased.",
            lambda ax: plots.reliability(table, ax),
            (4.9, 4.2),
        ),
        paragraph(f"By class of predicted {word}:"),
        metrics_table(table),
    ]
    return join(parts)


# --- applicability ----------------------------------------------------------------


def applicability(material: Material) -> Markup:
    """Return the area of applicability: where the measured error is valid."""
    if material.model.domain is None:
        return paragraph(
            "Not known: the model has no description of its training data to compare "
            "with. Call model.learn_applicability(cube)."
        )
    if "applicable" not in material.layers:
        return paragraph(
            "Not known: the map has no layers of applicability. Map the cube with "
            "applicability=True, or leave map= out, and they are computed."
        )
    if not material.inside[1]:
        return paragraph("No pixel of this cube has an observation.")
    share = material.inside[0] / material.inside[1]
    parts = [
        boxes({"of the mapped pixels are inside": f"{100 * share:.1f} %"}),
        paragraph(
            "Inside, the images are similar to the training data, and errors "
            "are expected to be like the measured ones. Outside, errors are not known. "
            "Method: Meyer and Pebesma (2021)."
        ),
    ]
    overview = material.overview
    if overview is not None:
        parts.append(
            figure(
                "Dissimilarity to the training data; the limit is 1, and pixels "
                "outside are hatched.",
                lambda ax: plots.applicability(overview, ax),
                (7, 5.4),
            )
        )
    return join(parts)


# --- the whole map ----------------------------------------------------------------


def maps(material: Material) -> Markup:
    """Return maps of the whole scene: biomass and the width of its interval."""
    overview = material.overview
    if overview is None:
        return Markup("")
    from matplotlib.figure import Figure

    target = material.target
    layers = [(target.short, overview[target.name])]
    if "agb" in material.cube:
        step = overview.attrs["step"]
        thin = {"y": slice(None, None, step), "x": slice(None, None, step)}
        observed = material.cube["agb"].isel(thin).load()
        layers.append((f"observed {target.short}", observed))
    known = [layer for _, layer in layers if np.isfinite(layer).any()]
    # Observed values have the colour scale of the map, so that they can be compared.
    end = max((float(layer.quantile(0.99)) for layer in known), default=1.0)
    least = 1.0 if target.units == AGB.units else 0.0  # an empty map has a scale
    top = max(end, least) or 1.0
    limits: list[tuple[float, float] | None] = [(0.0, top)] * len(layers)
    ends = f"{target.name}_lower", f"{target.name}_upper"
    if ends[0] in overview:
        width = overview[ends[1]] - overview[ends[0]]
        width = width.rename(target.name).assign_attrs(units=target.units)
        layers.append(("width of the interval", width))
        limits.append(None)
    sides = overview.sizes
    height = 1 + 4.6 * min(1.6, max(0.4, sides["y"] / sides["x"]))
    made = Figure((5.2 * len(layers), height), layout="constrained")
    axes = made.subplots(1, len(layers), squeeze=False).ravel()
    for axis, (title, layer), scale in zip(axes, layers, limits, strict=True):
        plots.biomass(layer, axis, title=title, limits=scale)
    return embedded(made, f"The whole scene, {target.units}.")


# --- totals -----------------------------------------------------------------------


def totals(material: Material) -> Markup:
    """Return totals of regions with confidence intervals."""
    table = material.totals
    if table is None:
        return Markup("")
    return join([totals_table(table), checks_table(table, "Checks of the totals")])


# --- provenance -------------------------------------------------------------------


def origin(material: Material) -> Markup:
    """Return the provenance that is recorded in the map."""
    return Markup(provenance(material.map_path or material.layers)._repr_html_())
