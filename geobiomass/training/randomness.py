"""Random numbers that depend on a place in the training, not on its history."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch

__all__ = ["Purpose", "derive_seed", "preserve_generators", "seed_generators"]


class Purpose(IntEnum):
    """What a stream of random numbers is for; different purposes never share one."""

    STEP = 0
    ORDER = 1
    VALIDATION = 2
    BATCH = 3


def derive_seed(seed: int, purpose: Purpose, number: int, rank: int) -> int:
    """Mix a run's seed with a place in it, by numpy's SeedSequence."""
    place = np.random.SeedSequence(seed, spawn_key=(purpose, number, rank))
    # 63 bits: torch's generators refuse a larger unsigned number in places.
    return int(place.generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's generator of the CPU and of one CUDA device, and no other."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def preserve_generators(device: str) -> Iterator[None]:
    """Give the caller's generators back in the state in which they were."""
    used = device == "cuda" or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = list(range(torch.cuda.device_count())) if used else []
    with torch.random.fork_rng(devices=devices):
        yield
