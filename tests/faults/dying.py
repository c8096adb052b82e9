"""A task that ends its worker. It imports nothing: schedulers import it as well."""

import os
from pathlib import Path
from typing import Any


def dying(values: Any, flag: str) -> Any:
    """Return the values; the third chunk ends the process that computes it, once."""
    number = sum(1 for _ in Path(flag).parent.glob("flag*"))
    Path(f"{flag}{number}").touch()
    if number == 2:
        os._exit(1)
    return values
