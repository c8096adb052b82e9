"""All commands of ``geobiomass``, as one typer app."""

from __future__ import annotations

from typing import Annotated

import typer

from geobiomass.cli import account, ingest
from geobiomass.cli import inspect as inspect_commands
from geobiomass.cli import predict as map_commands
from geobiomass.cli import train as model_commands
from geobiomass.cli import validate as validate_commands
from geobiomass.training.commands import EXIT_CODES, print_version
from geobiomass.training.option_names import ExplainingGroup

app = typer.Typer(
    cls=ExplainingGroup,
    help="Maps of above-ground biomass from monthly satellite images.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _version(wanted: bool) -> None:
    if wanted:
        print_version("geobiomass")


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_version,
            is_eager=True,
            help="Print the version, and exit.",
        ),
    ] = False,
) -> None:
    """Read the options of all commands."""


app.add_typer(ingest.app, name="ingest")
for command in (
    inspect_commands.info,
    model_commands.train,
    map_commands.plan,
    map_commands.predict,
    account.totals,
    account.dossier,
    account.change,
    model_commands.evaluate,
    validate_commands.validate,
    model_commands.calibrate,
    model_commands.export,
    inspect_commands.report,
    inspect_commands.demo,
):
    app.command()(command)
