"""One batch of tiles through the network: device, test-time averaging, memory."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from geobiomass.inference.machine import MemoryWatch, half_of_memory, map_device
from geobiomass.inference.thread_pools import THREADS
from geobiomass.network.static_planes import months_of, static_layers_of
from geobiomass.network.wrappers import unknown_bands
from geobiomass.training.augment import Orientation

Image = npt.NDArray[np.float32]

# A pass takes a multiple of its image's bytes: the default network 3, "quick" 7, the
# winner's 12 times, measured. Where there is room for more than three times that, the
# first pass need not be measured, and so need not run alone.
_ENOUGH_MEMORY = 40
_ONE_PASS_ON_GPU = threading.Lock()  # passes share the GPU, and so its memory


@dataclass(frozen=True)
class Predicted:
    """The network's outputs for a batch of tiles.

    Parameters
    ----------
    values : numpy.ndarray
        (tile, output, y, x) float32; meaningless where nothing was observed.
    seen : numpy.ndarray
        (tile, y, x) bool, whether any month has a value there.
    """

    values: npt.NDArray[np.float32]
    seen: npt.NDArray[np.bool_]

    @property
    def bytes(self) -> int:
        """Bytes of both arrays in memory."""
        return self.values.nbytes + self.seen.nbytes


@dataclass(eq=False)
class BatchPredictor:
    """A network that is ready to predict batches of tiles on one device.

    Parameters
    ----------
    network : torch.nn.Module
        Called as network(image) with (batch, month, band, y, x). It is put into
        evaluation mode, and on the device.
    outputs : int
        Number of maps that the network predicts.
    orientations : sequence of Orientation
        Flips and turns of the image; the predictions are averaged.
    precision : "float32" or "bf16"
        Precision of the multiplications.
    memory : int, optional
        Bytes that parallel passes may take on the CPU; by default half of what
        the process may use.
    """

    network: nn.Module
    outputs: int
    orientations: Sequence[Orientation]
    precision: Literal["float32", "bf16"]
    memory: int | None = None
    device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        self.device = map_device()
        self.network.to(self.device).eval()
        self._unknown = unknown_bands(self.network)
        self._layers = len(static_layers_of(self.network))
        self._measuring = threading.Lock()
        self._side_by_side: threading.Semaphore | None = None
        if self.device.type == "cuda":
            self._copies = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def stage(self, images: Sequence[Image]) -> tuple[Image, Tensor, Any]:
        """Copy a batch to the device; on a GPU while another batch is computed.

        Returns
        -------
        images, tensor, ready
            The batch (tile, month, band, y, x), in memory and on the device, and the
            event to wait for before the tensor is used.
        """
        batch = images[0][None] if len(images) == 1 else np.stack(images)
        tensor = torch.from_numpy(batch)
        if self.device.type == "cpu":
            return batch, tensor, None
        with torch.cuda.stream(self._copies):
            moved = tensor.pin_memory().to(self.device, non_blocking=True)
            return batch, moved, self._copies.record_event()

    def predict(self, batch: Image, tensor: Tensor, ready: Any) -> Predicted:
        """Predict a batch that :meth:`stage` returned."""
        # Ground that no image shows is not observed, whatever is known of it.
        seen = _seen(months_of(batch, self._layers), self._unknown)
        if not seen.any():  # nothing was observed: the values are masked anyway
            shape = (len(batch), self.outputs, *batch.shape[-2:])
            return Predicted(np.zeros(shape, np.float32), seen)
        if self.device.type == "cpu":
            torch.set_num_threads(1)  # of this thread of the pool
            with self._within_memory(batch.nbytes):
                return Predicted(self._average(tensor), seen)
        with _ONE_PASS_ON_GPU:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(ready)
            tensor.record_stream(current)
            return Predicted(self._average(tensor), seen)

    def _average(self, image: Tensor) -> npt.NDArray[np.float32]:
        """Return the mean prediction over all orientations of the image."""
        kind = self.device.type
        low = self.precision == "bf16"
        exact: Any = contextlib.nullcontext()
        if kind == "cuda":  # TF32, the default there, is off by one part in a thousand
            exact = torch.backends.cudnn.flags(allow_tf32=low)
        half = torch.autocast(kind, torch.bfloat16, enabled=low)
        with torch.inference_mode(), exact, half:
            total = torch.zeros((), dtype=torch.float64)
            for orientation in self.orientations:
                turned = self.network(orientation.apply(image))
                total = total + orientation.inverse.apply(turned).double().cpu()
            return (total / len(self.orientations)).float().numpy()

    # --- memory ---

    @contextlib.contextmanager
    def _within_memory(self, image: int) -> Iterator[None]:
        """Wait until there is memory for one more pass of an image of `image` bytes.

        Where memory may be short the first pass runs alone and is measured.
        """
        if self._side_by_side is None:
            with self._measuring:
                if self._side_by_side is None:
                    limit = self.memory or half_of_memory()
                    if limit < THREADS.count * _ENOUGH_MEMORY * image:
                        with MemoryWatch() as watch:
                            yield
                        few = max(1, limit // max(1, watch.growth))
                        self._side_by_side = threading.Semaphore(few)
                        return
                    self._side_by_side = threading.Semaphore(THREADS.count)
        with self._side_by_side:
            yield

    def measured_batch(self, shape: tuple[int, int, int, int]) -> int:
        """Return how many tiles (month, band, y, x) fit in the GPU's memory together.

        A power of two up to 16, beyond which a batch is no faster.
        """
        image = torch.zeros((1, *shape), device=self.device)
        with _ONE_PASS_ON_GPU:
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            self._average(image)
            peak = torch.cuda.max_memory_allocated(self.device) - before
            free = torch.cuda.mem_get_info(self.device)[0]
        fitting = int(0.7 * free / max(1, peak + 3 * image.nbytes))
        return max(1, 1 << (min(16, fitting).bit_length() - 1)) if fitting else 1

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, with the network on the CPU.

        The machine that unpickles it chooses its own device.
        """
        import copy

        network = self.network
        if self.device.type != "cpu":
            network = copy.deepcopy(network).cpu()
        return {
            "network": network,
            "outputs": self.outputs,
            "orientations": self.orientations,
            "precision": self.precision,
            "memory": self.memory,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled predictor on this machine's device."""
        self.__init__(**state)  # type: ignore[misc]


def _seen(batch: Image, unknown: Sequence[int] = ()) -> npt.NDArray[np.bool_]:
    """Return which pixels have a value in any month, (tile, y, x).

    Values of unknown bands do not count. For most images the first plane decides.
    """
    seen = np.zeros((len(batch), *batch.shape[-2:]), bool)
    for month in range(batch.shape[1]):
        for band in range(batch.shape[2]):
            if band in unknown:
                continue
            seen |= np.isfinite(batch[:, month, band])
            if seen.all():
                return seen
    return seen
