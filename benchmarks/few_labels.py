"""What helps a network where labels are few: setting by setting, at equal cost.

``python -m benchmarks.few_labels [--quick] [--rows WORDS] [--cells WORDS]``

Trains the network of "quick" and changes one setting a row, on landscapes of unseen
seeds with few labels and on real footprints, and tests it on blocks without labels in
training. Epochs are set so that all rows take about the same CPU seconds on one thread.
A random forest by pixel and ``gb.fit(cube, "pixels")`` stand beside them. Finished runs
are kept: the same command continues, and rows, cells and seeds can be added.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from label_cases import Cell

OUT = Path("build/few_labels.jsonl")
SEEDS = "0,1,2"
SIDE, MONTHS, BLOCK = 192, 6, 48  # of a landscape; of its blocks, pixels
CELLS = {
    cell.name: cell
    for cell in (
        *(Cell("landscape", "points", "random", count) for count in (300, 100, 1_000)),
        *(Cell("nicaragua", "footprints", "random", count) for count in (300, 100)),
    )
}
# How many times as many steps a row has, in the same time, on other data: images of one
# month are encoded faster than those of six.
MORE = {"landscape": 1.0, "nicaragua": 3.0}

EQUAL: dict[str, Any] = {"keep": "last", "validation_fraction": 0.0, "crops": 80}
LITE: dict[str, Any] = {
    "encoder": "tf_efficientnet_lite0",
    "decoder_channels": (32, 24, 16, 16, 16),
}
