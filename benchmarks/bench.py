"""The shared state of a run of maps.py: sizes, scenes, models, processes, targets."""

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
    """Sizes of a run, in pixels, and the paths of its scenes, models and maps.

    The sides are chosen so that tiles of 256 with 0, 25 and 50 % overlap end on the
    scene's edge. So every contender has the same tiles.
    """

    folder: Path
    quick: bool = False
    rounds: int = 3
    side: int = 1024
    chosen_demo: Path | None = None
    way: str = SIDE_BY_SIDE  # fastest way for the network alone, once it is measured
    targets: list[Row] = field(default_factory=list)
    processes: dict[tuple[str, str], Process] = field(default_factory=dict)
    reference: scenes.Map | None = None  # of the small scene, by this library

    @property
    def tile(self) -> int:
        """The side of a tile."""
        return 64 if self.quick else 256

    @property
    def blocks(self) -> tuple[int, int]:
        """The sides of blocks: the default, and one with many borders."""
        return (4 * self.tile, 2 * self.tile)

    @property
    def overlaps(self) -> tuple[int, int, int]:
        """The overlaps in pixels: none, a quarter and a half of a tile."""
        return (0, self.tile // 4, self.tile // 2)

    @property
    def memory_sides(self) -> tuple[int, int]:
        """The sides of the observed scene, and of the scene that contains it."""
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
        """A scene whose edges are not edges of tiles."""
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
        """Return an order; its map is written to a file with the label's name."""
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
        """Return a contender with its process, which is started if necessary.

        A new process first maps a small scene, and its map is compared.

        Parameters
        ----------
        order : Order
            The map to make.
        apart : str
            Orders of one contender with different values run in separate processes.
        """
        key = order.name, apart
        if key not in self.processes:
            say(f"starting {order.name} {apart}".rstrip() + " ...")
            self.processes[key] = Process(order.name, self.random)
            self._check(Contender(order, self.processes[key]))
        return Contender(order, self.processes[key])

    def _check(self, contender: Contender) -> None:
        """Check a contender's map of four tiles, which also warms the process up.

        Without overlap all ways to join tiles are the same, so all maps must agree.

        Raises
        ------
        RuntimeError
            If the map differs from this library's map by more than a thousandth of the
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
                f"{order.name} must make the same map of {self.small.name} as {OURS}: "
                f"they differ by up to {worst:.3g} standard deviations."
            )

    def close(self) -> None:
        """End all processes."""
        for process in self.processes.values():
            process.close()

    def target(self, what: str, value: float, limit: float, least: bool) -> None:
        """Add a row that compares a measurement with its target."""
        met = value >= limit if least else value <= limit
        row = {
            "target": what,
            "measured": value,
            "limit": f"{'>=' if least else '<='} {limit:g}",
            "met": "yes" if met else "no",
        }
        self.targets.append(row)


def say(what: str) -> None:
    """Print progress to stderr, separate from the tables."""
    print(what, file=sys.stderr, flush=True)


def installed_peers() -> list[str]:
    """Return the peers whose package is installed."""
    return [name for name in PEERS if find_spec(name)]
