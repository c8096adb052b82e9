"""A page for every public name, out of the packages' own lists of names."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

MODULES = (
    "geobiomass",
    "geobiomass.labels",
    "geobiomass.accounting",
    "geobiomass.plots",
    "geobiomass.summary",
    "geobiomass.metadata.provenance",
    "geobiomass.sources.grid",
    "geobiomass.sources.stac.archives",
    "geobiomass.sources.landscape.archive",
    "geobiomass.sources.landscape.embedding_archive",
    "geobiomass.applicability",
    "geobiomass.statistics.conformal",
    "geobiomass.inference.plan",
    "geobiomass.inference.map_settings",
    "geobiomass.recipes.schedule",
    "geobiomass.models.choice_record",
    "geobiomass.cube.areas",
    "geobiomass.cube.sealing",
    "geobiomass.statistics.estimators",
    "geobiomass.statistics.estimated_mean",
    "geobiomass.statistics.interval_of_mean",
    "geobiomass.statistics.sample",
    "geobiomass.statistics.variances",
    "geobiomass.statistics.two_phase",
    "geobiomass.statistics.ratio",
    "geobiomass.statistics.small_areas",
    "geobiomass.data.folds",
    "geobiomass.evaluation.residuals",
    "geobiomass.statistics.variogram",
    "geobiomass.accounting.error_model",
    "geobiomass.accounting.change",
    "geobiomass.network",
    "geobiomass.training",
    "geobiomass.training.losses",
    "geobiomass.training.metrics",
    "geobiomass.training.augment",
    "geobiomass.training.estimator",
    "pasture",
    "pasture.plots",
    "pasture.swards",
    "pasture.baseline",
    "pasture.network",
)
"""Modules whose names users may rely on, in the order of the site."""

# Of these only what the public names give or take is public.
CHOSEN = {
    "geobiomass.cube.areas": ("pixel_areas", "pixel_size", "regions_of"),
    "geobiomass.cube.sealing": ("seal", "verify"),
    "geobiomass.metadata.provenance": ("Provenance",),
    "geobiomass.data.folds": ("Fold",),
    "geobiomass.evaluation.residuals": ("read_residuals", "write_residuals"),
    "geobiomass.statistics.conformal": ("Calibration",),
    "geobiomass.applicability": ("Domain", "Domains", "View"),
    "geobiomass.network": ("AttentionUNet", "Look", "MonthAttention"),
    "geobiomass.accounting.change": (
        "change_residuals",
        "error_correlation",
        "write_change",
    ),
    "geobiomass.accounting.error_model": ("ErrorModel", "ErrorSum", "fit_error_model"),
    "geobiomass.statistics.estimators": ("choose_method", "estimate"),
    "geobiomass.statistics.estimated_mean": ("Estimate", "StratumPart", "combine"),
    "geobiomass.statistics.interval_of_mean": (
        "Bounds",
        "IntervalRule",
        "interval_of",
        "largest_share",
    ),
    "geobiomass.statistics.sample": ("SampleError",),
    "geobiomass.statistics.variances": ("neighbours",),
    "geobiomass.statistics.two_phase": ("two_phase",),
    "geobiomass.statistics.ratio": ("hansen_hurwitz", "ratio"),
    "geobiomass.statistics.small_areas": ("SmallAreaMeans", "small_area_means"),
    "geobiomass.inference.map_settings": ("MapSettings",),
    "geobiomass.inference.plan": ("MapPlan",),
    "geobiomass.recipes.schedule": ("TrainingPlan",),
    "geobiomass.models.choice_record": ("ChoicePlan",),
    "geobiomass.sources.stac.archives": ("Archive",),
    "geobiomass.statistics.variogram": ("Variogram", "fit_variogram", "suggest_block"),
    "geobiomass.summary": ("Summary", "Table"),
}
OURS = ("geobiomass", "pasture")
# Also on the face, where its page is.
ELSEWHERE = {"geobiomass.training.estimator": ("ModelError",)}


def public_names(module: str) -> list[str]:
    """Return the names of a public module that have a page, without modules."""
    loaded = importlib.import_module(module)
    names = CHOSEN.get(module) or getattr(loaded, "__all__", None)
    if names is None:
        names = [
            name for name, value in vars(loaded).items() if _defined(value, module)
        ]
    found = [
        name
        for name in names
        if not inspect.ismodule(getattr(loaded, name))
        and name not in ELSEWHERE.get(module, ())
    ]
    return sorted(found, key=str.lower)


def _defined(value: Any, module: str) -> bool:
    kind = inspect.isfunction(value) or inspect.isclass(value)
    return kind and value.__module__ == module and not value.__name__.startswith("_")


def public_members(kind: type) -> list[str]:
    """Return the public methods and properties that our packages define in a class."""
    chosen = []
    for name, value in inspect.getmembers_static(kind):
        owner = next(c for c in kind.__mro__ if name in vars(c))
        function = getattr(value, "__func__", value)
        callable_or_property = inspect.isfunction(function) or isinstance(
            value, property
        )
        if (
            callable_or_property
            and not name.startswith("_")
            and owner.__module__.split(".")[0] in OURS
        ):
            chosen.append(name)
    return chosen


def pages() -> dict[str, str]:
    """Return the text of each page of the reference, by file name."""
    found = {}
    for module in MODULES:
        found[f"{module}.rst"] = _module_page(module)
        if module in OURS:
            for name, value in _named(module):
                text = f"{_title(f'{module}.{name}')}\n{_entry(module, name, value)}"
                found[f"{module}.{name}.rst"] = text
    return found


def _named(module: str) -> Iterator[tuple[str, Any]]:
    loaded = importlib.import_module(module)
    for name in public_names(module):
        yield name, getattr(loaded, name)


def _module_page(module: str) -> str:
    """Write a table of the names; the two faces have a page for each, others none."""
    text = inspect.getdoc(importlib.import_module(module))
    rows = "\n".join(
        f"   * - :py:obj:`{name} <{module}.{name}>`\n     - {_summary(value)}"
        for name, value in _named(module)
    )
    head = (
        f"{_title(module)}\n.. py:module:: {module}\n\n{text}\n\n"
        f".. list-table::\n   :widths: 30 70\n\n{rows}\n\n"
    )
    if module in OURS:
        listed = "\n".join(f"   {module}.{name}" for name, _ in _named(module))
        return f"{head}.. toctree::\n   :hidden:\n\n{listed}\n"
    return head + "\n".join(_entry(module, *each) for each in _named(module))


def _entry(module: str, name: str, value: Any) -> str:
    where = f".. currentmodule:: {module}\n\n"
    if inspect.isclass(value):
        members = ", ".join(public_members(value))
        listed = f"   :members: {members}\n" if members else ""
        return f"{where}.. autoclass:: {name}\n{listed}"
    if inspect.isroutine(value):
        return f"{where}.. autofunction:: {name}\n"
    return f"{where}.. autodata:: {name}\n"


def _summary(value: Any) -> str:
    text = inspect.getdoc(value) if callable(value) else ""
    return (text or f"``{value!r}``").split("\n\n")[0].replace("\n", " ")


def _title(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n"
