"""The command line: ``geobiomass ingest | info | train | plan | predict | ...``.

Only parses and calls. Bad input ends with one sentence and exit code 2.
"""

from __future__ import annotations

from typing import NoReturn

import typer

from geobiomass.cli import account, ingest
from geobiomass.cli import inspect as looking
from geobiomass.cli import predict as mapping
from geobiomass.cli import train as models
from geobiomass.cli import validate as validating
from geobiomass.training.commands import EXIT_CODES, run

app = typer.Typer(
    help="Maps of above-ground biomass from monthly satellite images.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(ingest.app, name="ingest")
for command in (
    looking.info,
    models.train,
    mapping.plan,
    mapping.predict,
    account.totals,
    account.change,
    models.evaluate,
    validating.validate,
    models.calibrate,
    models.export,
    looking.report,
    looking.demo,
):
    app.command()(command)


def main() -> NoReturn:
    """Run the command line."""
    run(app, "geobiomass")
