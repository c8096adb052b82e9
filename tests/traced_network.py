"""A network that notes where it ran, for tests of maps on a cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn


class Traced(nn.Module):
    """Copies the first band; notes in a file where it was unpacked, where it ran."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self.log = log

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.note("unpacked")

    def forward(self, image: Tensor) -> Tensor:
        self.note("tile")
        return image[:, 0, :1].nan_to_num()

    def note(self, what: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {what}\n")

    def where(self, what: str) -> list[int]:
        """Return the process of each line of the log."""
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return [int(pid) for pid, did in lines if did == what]
