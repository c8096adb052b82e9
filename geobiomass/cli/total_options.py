"""The settings of totals as options of commands, which stand once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from geobiomass.statistics.confidence import DEFAULT_CONFIDENCE

Factors = Annotated[
    str | None,
    typer.Option(
        "--carbon",
        help="Carbon factors by name, with their errors: 'ipcc 2006', 'ipcc 2019 "
        "tropical rainforest Africa', ...",
    ),
]
ModelError = Annotated[
    float | None,
    typer.Option(
        help="Relative standard error of the models behind the plots' biomass, such "
        "as 0.05."
    ),
]
Rule = Annotated[
    str | None,
    typer.Option(
        "--deduction",
        help="Rule whose deduction is computed: 'ART TREES 2.0', 'VM0047 1.1', FCPF.",
    ),
]


class Assisted(StrEnum):
    """The estimator that combines plots and a map."""

    auto = "auto"
    plots = "plots"
    difference = "difference"
    regression = "regression"
    all = "all"
    small_area = "small area"


class Ends(StrEnum):
    """The rule of intervals."""

    auto = "auto"
    t = "t"


class Drawn(StrEnum):
    """How plots were drawn."""

    random = "random"
    systematic = "systematic"


Estimators = Annotated[
    Assisted, typer.Option(help="The estimator that combines plots and map.")
]
Clusters = Annotated[
    str | None,
    typer.Option(help="Column with the cluster of each plot: clusters are the sample."),
]
Intervals = Annotated[
    Ends,
    typer.Option(
        help="Intervals by rule (few plots, skewness, zeros), or Student's t."
    ),
]
Designs = Annotated[
    Drawn, typer.Option(help="How plots were drawn: at random, or on a grid.")
]


class Unmapped(StrEnum):
    """The rule for hectares without a value."""

    exclude = "exclude"
    mean = "mean of its stratum"
    refuse = "refuse"


def takes_total_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each setting of totals to a command.

    Parameters
    ----------
    command : callable
        With ``**settings``, where it gets the settings by the names that
        :func:`geobiomass.totals` has.
    """
    own = _parameters(command)
    own.pop("settings")
    parameters = [
        *(one for one in own.values() if one.name in _FIRST),
        *_parameters(_settings).values(),
        *(one for one in own.values() if one.name not in _FIRST),
    ]

    @functools.wraps(command)
    def call(**named: Any) -> None:
        command(
            **{
                name: value.value if isinstance(value, StrEnum) else value
                for name, value in named.items()
            }
        )

    # typer reads both.
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    return call


_FIRST = ("map_", "regions", "out")  # of a command, before the settings in its help


def _parameters(command: Callable[..., None]) -> dict[str, inspect.Parameter]:
    types = get_type_hints(command, include_extras=True)
    return {
        name: one.replace(annotation=types[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, one in inspect.signature(command).parameters.items()
    }


def _settings(
    plots: Annotated[
        Path | None,
        typer.Option(
            help="A probability sample: a table with lon and lat, or vectors."
        ),
    ] = None,
    residuals: Annotated[
        Path | None,
        typer.Option(
            help="Instead of plots: a folder of validate, a CSV of residuals, or JSON "
            "of an error model."
        ),
    ] = None,
    estimator: Estimators = Assisted.auto,
    observed: Annotated[
        str,
        typer.Option(
            "--observed", "--column", help="Column with the plots' biomass, Mg/ha."
        ),
    ] = "agb",
    stratum: Annotated[
        str | None, typer.Option(help="Column with the plots' strata.")
    ] = None,
    probability: Annotated[
        str | None, typer.Option(help="Column with inclusion probabilities.")
    ] = None,
    strata: Annotated[
        str | None, typer.Option(help="A raster of strata on the map's grid.")
    ] = None,
    poststrata: Annotated[
        str | None,
        typer.Option(help="As --strata, for plots drawn without regard to the strata."),
    ] = None,
    cluster: Clusters = None,
    design: Designs = Drawn.random,
    population: Annotated[
        float | None,
        typer.Option(
            help="Number of plots that would cover the region, for the finite "
            "population correction."
        ),
    ] = None,
    interval: Intervals = Ends.auto,
    radius: Annotated[
        float | None, typer.Option(help="Radius of plots, metres.")
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="Confidence of the intervals.")
    ] = DEFAULT_CONFIDENCE,
    carbon_fraction: Annotated[
        float, typer.Option(help="Carbon fraction of biomass (0.47: IPCC 2006).")
    ] = 0.47,
    carbon: Factors = None,
    model_error: ModelError = None,
    deduction: Rule = None,
    name: Annotated[
        str | None, typer.Option(help="Column with the regions' names.")
    ] = None,
    variable: Annotated[
        str | None,
        typer.Option(help="The map's layer; by default agb, or the model's target."),
    ] = None,
    unmapped: Annotated[
        Unmapped, typer.Option(help="Rule for hectares off the map or without a value.")
    ] = Unmapped.exclude,
    force: Annotated[
        bool, typer.Option("--force", help="Intervals also where a check is broken.")
    ] = False,
) -> None:
    """Have the options of totals as parameters."""
