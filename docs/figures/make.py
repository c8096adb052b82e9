"""Every picture of the pages, and the code that makes it.

``python docs/figures/make.py`` makes those that take seconds; ``--all`` runs the two
demonstrations as well, about twenty minutes on two cores. Pictures inside notebooks
are made by their cells, those of benchmarks by the benchmark.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

DOCS = Path(__file__).parents[1]
sys.path.insert(0, str(DOCS.parent))
sys.path.insert(0, str(DOCS))

from figures import metric, network, survey  # noqa: E402

DRAWN: dict[str, Callable[[], Figure]] = {
    "figures/network.png": network.draw,
    "figures/metric-average.png": metric.draw_average,
    "figures/metric-bins.png": metric.draw_bins,
    "figures/trust-range.png": metric.draw_range,
    "figures/survey.png": survey.draw,
}
"""Pictures by their place in docs/, and what draws them."""

DEMONSTRATED = {
    "map.png": ("geobiomass", "map.png"),
    "pasture-scatter.png": ("pasture", "scatter.png"),
    "pasture-photos.jpg": ("pasture", "photos.png"),
}
"""Pictures that a demonstration leaves in its folder: whose, and as what."""

COMPARED = {"landscape-chips.jpg": "landscape_pictures.py"}
"""Pictures of benchmarks that need real chips, and which file there draws them:
``python -m benchmarks.landscape_truth --pictures FOLDER``."""


def draw(name: str, folder: Path) -> Path:
    """Draw one picture into a folder, at the same place as in docs/."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    DRAWN[name]().savefig(path, dpi=110, metadata={"Software": None})
    return path


def demonstrate(work: Path) -> None:
    """Run both demonstrations and take their pictures."""
    from PIL import Image

    import geobiomass.cli.demo
    import pasture.demo

    geobiomass.cli.demo.run(work / "geobiomass")
    pasture.demo.run(work / "pasture")
    for name, (package, picture) in DEMONSTRATED.items():
        image = Image.open(work / package / picture).convert("RGB")
        image.save(DOCS / name, optimize=True)


def main() -> None:
    """Make the pictures, and say which."""
    for name in DRAWN:
        print(draw(name, DOCS))
    if "--all" in sys.argv[1:]:
        demonstrate(DOCS.parent / "build" / "demonstrations")


if __name__ == "__main__":
    main()
