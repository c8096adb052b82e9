"""What one run of maps.py shares: sizes, scenes, models, processes and targets."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import scenes
from map_peers import PEERS
from mapping import ALONE, OURS, SIDE_BY_SIDE, Order
from tables import Row
from turns import Contender, Process


@dataclass
class Bench:
    """Sizes of a run, in pixels, and where its scenes, models and maps lie.

    The sides are such that tiles of 256 with 0, 25 and 50 % overlap all end on the
    scene's edge: every contender has the same tiles.
    """

    folder: Path
    quick: bool = False
    rounds: int = 3
    side: int = 1024
    chosen_demo: Path | None = None
    way: str = SIDE_BY_SIDE  # the fastest for the network alone, once it is known
    targets: list[Row] = field(default_factory=list)
    processes: dict[tuple[str, str], Process] = field(default_factory=dict)
    reference: scenes.Map | None = None  # of the small scene, by this library

    @property
    def tile(self) -> int:
        """Side of a tile."""
        return 64 if self.quick else 256

    @property
    def blocks(self) -> tuple[int, int]:
        """Side of a block: the default, and one with many borders."""
        return (4 * self.tile, 2 * self.tile)

    @property
    def overlaps(self) -> tuple[int, int, int]:
        """Pixels: no overlap, a quarter, a half of a tile."""
        return (0, self.tile // 4, self.tile // 2)

    @property
    def memory_sides(self) -> tuple[int, int]:
        """Side of the scene that is observed, and of the one that holds it."""
        sides = (8 * self.tile, 32 * self.tile)
        return (sides[0] // 2, sides[1] // 2) if self.quick else sides

    @cached_property
    def scene(self) -> Path:
        """The scene of most rows."""
        say(f"writing a scene of {self.side} x {self.side} ...")
        return scenes.scene(self.folder, self.side, self.side)

    @cached_property
    def small(self) -> Path:
        """A scene of four tiles, to warm up and to check on."""
        return scenes.scene(self.folder, 2 * self.tile, 2 * self.tile)

    @cached_property
    def ragged(self) -> Path:
        """A scene that tiles do not end on the edge of."""
        return scenes.scene(self.folder, 2 * self.tile - 12, 2 * self.tile + 88)

    @cached_property
    def random(self) -> Path:
        """A model with a ResNet-18 encoder and random weights."""
        return scenes.random_model(self.folder)

    @cached_property
    def demo(self) -> Path:
        """The demonstration's model."""
        if self.quick:
            return scenes.random_model(self.folder, "resnet10t")
        if self.chosen_demo:
            return self.chosen_demo
        say("training the demonstration's model, about five minutes ...")
        return scenes.demo_model(self.folder)

    def order(self, name: str, overlap: int, label: str = "", **rest: object) -> Order:
        """Give an order; maps go to a file of their own, named by the label."""
        ending = {OURS: ".zarr", ALONE: ".npy", "xbatcher": ".zarr"}.get(name, ".tif")
        label = label or f"{name}-{overlap}".replace(" ", "-")
        common = {
            "scene": str(self.scene),
            "model": str(self.random),
            "block": self.blocks[0],
            "way": self.way,
            "output": str(self.folder / f"map-{label}{ending}"),
        }
        return Order(name=name, tile=self.tile, overlap=overlap, **(common | rest))  # type: ignore[arg-type]

    def contender(self, order: Order, apart: str = "") -> Contender:
        """Give an order to the contender's process, started if it is not there.

        What it gives of a small scene is compared first.

        Parameters
        ----------
        order : Order
            What to map.
        apart : str
            Orders of one contender that differ in this get a process each.
        """
        key = order.name, apart
        if key not in self.processes:
            say(f"starting {order.name} {apart}".rstrip() + " ...")
            self.processes[key] = Process(order.name, self.random)
            self._check(Contender(order, self.processes[key]))
        return Contender(order, self.processes[key])

    def _check(self, contender: Contender) -> None:
        """Compare maps of four tiles; they also warm the process up.

        Without overlap every way to join tiles is the same, so that all must agree.

        Raises
        ------
        RuntimeError
            If one differs from this library's map by more than a thousandth of the
            map's standard deviation.
        """
        order = contender.order
        if order.name in PEERS:
            scenes.write_tiff(self.small)
        output = contender.output.with_stem(f"check-{contender.output.stem}")
        contender.run(
            scene=str(self.small),
            model=str(self.random),
            output=str(output),
            overlap=0,
            block=self.tile,
            blend="smooth",
        )
        found = scenes.read_map(output)
        if self.reference is None:
            if order.name != OURS:
                self.contender(self.order(OURS, 0))
            else:
                self.reference = found
        assert self.reference is not None
        worst = np.abs(found - self.reference).max() / self.reference.std()
        if not worst <= 1e-3:
            raise RuntimeError(
                f"{order.name} gives another map of {self.small.name} than {OURS}: "
                f"they differ by up to {worst:.3g} standard deviations."
            )

    def close(self) -> None:
        """End all processes."""
        for process in self.processes.values():
            process.close()

    def target(self, what: str, value: float, limit: float, least: bool) -> None:
        """Hold what was measured against what was promised."""
        met = value >= limit if least else value <= limit
        row = {
            "target": what,
            "measured": value,
            "limit": f"{'>=' if least else '<='} {limit:g}",
            "met": "yes" if met else "no",
        }
        self.targets.append(row)


def say(what: str) -> None:
    """Tell what is being done, apart from the tables."""
    print(what, file=sys.stderr, flush=True)


def installed_peers() -> list[str]:
    """Give the peers whose package is installed."""
    return [name for name in PEERS if find_spec(name)]
