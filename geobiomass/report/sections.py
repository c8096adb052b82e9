"""Sections about the model and the cube: errors, maps, months, training, card."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from markupsafe import Markup

from geobiomass import plots
from geobiomass.cube import is_chips
from geobiomass.cube.summary import describe_cube
from geobiomass.models.learnt_labels import TOLD
from geobiomass.models.summary import describe_model
from geobiomass.plots.accuracy import digits_of
from geobiomass.report.audit import metrics_table
from geobiomass.report.material import BLOCK, Material
from geobiomass.report.page import (
    boxes,
    embedded,
    facts_table,
    figure,
    from_markdown,
    join,
    paragraph,
    warning,
)
from geobiomass.summary import Summary
from geobiomass.training.model_folder import package_versions


def about(material: Material) -> Markup:
    """Return the model, the cube, the date and the versions of packages."""
    facts = {
        "model": material.model_path or repr(material.model),
        "cube": material.cube_path or "a dataset in memory",
        "written": datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        "with": ", ".join(f"{k} {v}" for k, v in _versions().items()),
    }
    unit = "chips" if is_chips(material.cube) else f"blocks of {BLOCK} pixels"
    if material.used < material.available:
        facts["sample"] = f"{material.used:,} of {material.available:,} {unit}"
    return facts_table(facts)


def _versions() -> dict[str, str]:
    return {"Python": platform.python_version(), **package_versions()}


def metrics(material: Material) -> Markup:
    """Return the error, overall and by bin of observed biomass."""
    if not material.compared:
        why = (
            "its labels are all missing, or at pixels without any observation"
            if "agb" in material.cube
            else "the cube has no labels (agb)"
        )
        return paragraph(
            f"There is no error to report: {why}. The error on held-out data is in the "
            "model's card."
        )
    table = material.tally.table(bootstrap=material.bootstrap)
    overall: Any = table.loc["all"]
    units = material.target.units
    digits = digits_of(units)
    tiles = {
        "average RMSE": f"{overall['average_rmse']:.{digits}f} {units}",
        "RMSE of all pixels": f"{overall['pixel_rmse']:.{digits}f} {units}",
        "mean absolute error": f"{overall['mae']:.{digits}f} {units}",
        "bias": f"{overall['bias']:+.{digits}f} {units}",
        "R²": f"{overall['r2']:.3f}",
        "pixels": f"{int(overall['pixels']):,}",
    }
    words = paragraph(
        "Average RMSE: the mean of the RMSE of each chip, or of each block of 256 x "
        "256 pixels of a scene. Bias: predicted minus observed. In brackets: "
        "confidence intervals of 95 %, by a bootstrap over chips or such blocks."
    )
    return join([_warning(material), boxes(tiles), words, metrics_table(table)])


def _warning(material: Material) -> Markup:
    """Return a warning if labels of the cube trained the model."""
    trained = material.trained
    if material.model.was_trained_on(material.cube):
        text = "The model was trained on this cube"
    elif trained is not None and trained.share >= TOLD:
        text = f"{trained} trained the model"
    else:
        return Markup("")
    return warning(
        f"{text}: the errors below are too small.",
        "The error on held-out data is above.",
    )


def errors(material: Material) -> Markup:
    """Return plots of predicted against observed, and of the error by bin."""
    if not material.compared:
        return Markup("")
    found, truth = (np.concatenate(each) for each in zip(*material.pairs, strict=True))
    word, target = material.target.short, material.target
    mapped, known = (
        xr.DataArray(each, name=target.name, attrs={"units": target.units})
        for each in (found, truth)
    )
    note = "" if found.size == material.tally.count else " An even sample of pixels."
    return figure(
        f"Predicted against observed {word}, with the 1:1 line." + note,
        lambda ax: plots.scatter(mapped, known, ax),
        (4.9, 4.2),
    ) + figure(
        f"RMSE and bias by observed {word}.",
        lambda ax: plots.error_by_bin(material.tally.table(), ax=ax),
        (6.1, 4.2),
    )


def pictures(material: Material) -> Markup:
    """Return maps of some chips, or blocks of a scene."""
    from matplotlib.figure import Figure

    parts = []
    for name, part, found in material.pictures:
        count = plots.images.panels_of(part)
        height = 1 + 3.2 * min(1.5, max(0.5, part.sizes["y"] / part.sizes["x"]))
        figure = Figure((4.0 * count, height), layout="constrained")
        axes = np.ravel(figure.subplots(1, count, squeeze=False)).tolist()
        plots.comparison(part, found[material.target.name], axes=axes)
        parts.append(embedded(figure, f"Map of {name}."))
    return join(parts)


def months(material: Material) -> Markup:
    """Return plots of the available months and of their attention weights."""
    cube, model = material.cube, material.model
    width = 2.6 + 0.62 * cube.sizes["month"]
    parts = figure(
        "Share of values that are present, by month.",
        lambda ax: plots.availability(cube, ax),
        (width, 3.2),
    )
    try:
        weights = model.attention(cube)
    except (TypeError, ValueError) as error:
        return parts + paragraph(f"No attention to show: {error}")
    return parts + figure(
        "Attention weight of each month, by level of the network: the side of its "
        "cells, from fine to coarse.",
        lambda ax: plots.attention_over_year(weights, ax=ax),
        (width, 3.8),
    )


def training(material: Material) -> Markup:
    """Return plots of the loss by epoch, or of the error of each part by pixel."""
    members = getattr(material.model, "models", [material.model])
    parts = []
    for number, member in enumerate(members, 1):
        if not len(getattr(member, "history", ())):
            continue
        of = f" of member {number}" if len(members) > 1 else ""
        what = f"Training{of}: loss, and error on held-out data, by epoch."
        if "rmse" in member.history:  # of a learner by pixel
            what = f"What was fitted{of}, and its error on labels held out in turn."
        parts.append(figure(what, partial(plots.history, member), (7.5, 3.8)))
    return join(parts)


def data(material: Material) -> Markup:
    """Return the summary of the cube."""
    return join([Summary(describe_cube(material.cube))])


def card(material: Material) -> Markup:
    """Return the summary of the model, and its card."""
    facts = Summary(describe_model(material.model))
    return join([facts, from_markdown(_card_text(material))])


def _card_text(material: Material) -> str:
    """Return the card in the model's folder, which users may edit, or a new one."""
    file = Path(material.model_path, "README.md") if material.model_path else None
    if file is not None and file.is_file():
        return file.read_text(encoding="utf-8")
    # Other networks that map have no card.
    return str(material.model._card()) if hasattr(material.model, "_card") else ""
