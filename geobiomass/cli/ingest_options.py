"""Options of several commands of ``geobiomass ingest``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class StoredAs(StrEnum):
    """Types that a cube can be stored with."""

    int16 = "int16"
    int32 = "int32"
    float32 = "float32"


class Damaged(StrEnum):
    """Choices for files that are cut short."""

    stop = "raise"
    skip = "skip"


Stored = Annotated[StoredAs, typer.Option(help="Type of the stored values.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an existing cube.")
]
