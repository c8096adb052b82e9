"""Models as releases before checksums saved them."""

from __future__ import annotations

import json
from pathlib import Path


def without_checksums(folder: Path) -> None:
    """Remove the checksums of a model, and of its members: README.md has them too."""
    for card in folder.rglob("README.md"):
        card.unlink()
    for file in folder.rglob("config.json"):
        config = json.loads(file.read_text())
        for name in ("checksums", "crc32c"):
            config.pop(name, None)
        file.write_text(json.dumps(config))
