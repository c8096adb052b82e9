"""Random numbers that depend on the step of a training, not on its history."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch

__all__ = ["Purpose", "derive_seed", "preserve_generators", "seed_generators"]


class Purpose(IntEnum):
    """Purpose of a stream of random numbers; two purposes never share a stream."""

    STEP = 0
    ORDER = 1
    VALIDATION = 2
    BATCH = 3


def derive_seed(seed: int, purpose: Purpose, number: int, rank: int) -> int:
    """Return a seed for one step, epoch or batch of a run, by numpy's SeedSequence."""
    sequence = np.random.SeedSequence(seed, spawn_key=(purpose, number, rank))
    # 63 bits: some of torch's functions refuse larger unsigned numbers.
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's generators of the CPU and of one CUDA device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def preserve_generators(device: str) -> Iterator[None]:
    """Restore the state of torch's generators after the `with` statement."""
    used = device == "cuda" or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = list(range(torch.cuda.device_count())) if used else []
    with torch.random.fork_rng(devices=devices):
        yield
