"""Sources of batches, and the shard of each process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from .randomness import Purpose, derive_seed, seed_generators

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["Batch", "BatchSource", "Batches"]

# (*inputs, target)
Batch = tuple[Any, ...] | list[Any]


@runtime_checkable
class BatchSource(Protocol):
    """Source of batches by epoch and process.

    The batches must depend only on the number of the epoch (and on a seed of the
    source), not on earlier calls nor on torch's generators. When a training is resumed
    in epoch 7 at batch 40, the trainer asks for that batch first.
    """

    def batches_per_epoch(self, ranks: int) -> int:
        """Return the number of batches per epoch of each of `ranks` processes."""

    def epoch(
        self, number: int, rank: int, ranks: int, start: int = 0
    ) -> Iterator[Batch]:
        """Yield the batches of epoch `number` (from 0) for process `rank`.

        An earlier call has trained on the first `start` of them, which are neither
        read nor yielded.
        """


Batches = BatchSource | Iterable[Batch]


class Shard:
    """Batches of one process, in the order of the running epoch.

    Lightning iterates over it. The source is opened at the first batch, since Lightning
    asks for an iterator before it knows the epoch at which it resumes. For batches that
    an earlier call trained on it yields None, which Lightning counts and skips. So an
    epoch that is resumed at any step, even after its last one, runs all hooks of an
    epoch.

    Parameters
    ----------
    source
        The batches of the user.
    trainer
        The trainer, which has the epoch, the rank and the number of processes.
    seed
        Seed of the order of a DataLoader's samples.
    done
        Returns the number of batches of the epoch that an earlier call trained on.
        In training all ranks have the same number of batches, and a remainder is left
        out. None is for validation: each batch belongs to exactly one rank, and the
        number of the epoch is always 0.
    before
        Number of epochs of the trainings before this one.
    """

    def __init__(
        self,
        source: Batches,
        trainer: Trainer,
        seed: int,
        done: Callable[[], int] | None,
        before: int = 0,
    ) -> None:
        self._training = done is not None
        _check_source(source, self._training)
        self._source = source
        self._trainer = trainer
        self._seed = seed
        self._done = done or (lambda: 0)
        self._before = before
        self._loader: DataLoader[Any] | None = None

    def __len__(self) -> int:
        rank, ranks = self._trainer.global_rank, self._trainer.world_size
        total = self._total(rank, ranks)
        if total < 1:
            kind = "batches" if self._training else "validation"
            raise ValueError(
                f"{kind} must hold a batch for each of {ranks} processes, got "
                f"{type(self._source).__name__} with too few; give more data, smaller "
                "batches or fewer devices"
            )
        return total

    def _total(self, rank: int, ranks: int) -> int:
        source = self._source
        if isinstance(source, BatchSource):
            return source.batches_per_epoch(ranks)
        if isinstance(source, DataLoader):
            return len(self._own_loader(source, rank, ranks))
        whole, rest = divmod(len(source), ranks)  # type: ignore[arg-type]
        return whole if self._training else whole + (rank < rest)

    def __iter__(self) -> Iterator[Batch | None]:
        rank, ranks = self._trainer.global_rank, self._trainer.world_size
        epoch = self._before + self._trainer.current_epoch if self._training else 0
        promised = len(self)
        given = start = self._done()
        yield from repeat(None, start)
        rest = self._open(epoch, rank, ranks, start)
        for batch in islice(rest, promised - start):
            given += 1
            yield batch
        if given < promised:
            raise ValueError(
                f"epoch {epoch + 1} of {type(self._source).__name__} must hold "
                f"{promised} batches for process {rank}, by its length; got {given}"
            )

    def _open(self, epoch: int, rank: int, ranks: int, start: int) -> Iterable[Batch]:
        source = self._source
        if isinstance(source, BatchSource):
            return source.epoch(epoch, rank, ranks, start)
        if isinstance(source, DataLoader):
            return islice(self._read_loader(source, epoch, rank, ranks), start, None)
        end = len(source) // ranks * ranks if self._training else None  # type: ignore[arg-type]
        return islice(source, rank + start * ranks, end, ranks)

    def _read_loader(
        self, source: DataLoader[Any], epoch: int, rank: int, ranks: int
    ) -> Iterator[Batch]:
        loader = self._own_loader(source, rank, ranks)
        purpose = Purpose.ORDER if self._training else Purpose.VALIDATION
        seed = derive_seed(self._seed, purpose, epoch, rank)
        device = self._trainer.strategy.root_device
        seed_generators(seed, device)
        # The loader's own generator depends on the epochs before.
        for owner in (loader, loader.sampler):
            if (generator := getattr(owner, "generator", None)) is not None:
                generator.manual_seed(seed)
        if isinstance(loader.sampler, DistributedSampler):
            loader.sampler.set_epoch(epoch)
        for number, batch in enumerate(loader):
            yield batch
            # The random numbers of a dataset must not depend on the steps between.
            seed_generators(derive_seed(seed, Purpose.BATCH, number, rank), device)

    def _own_loader(
        self, source: DataLoader[Any], rank: int, ranks: int
    ) -> DataLoader[Any]:
        if ranks == 1:
            return source
        if self._loader is None:
            self._loader = _split_loader(
                source, rank, ranks, self._seed, self._training
            )
        return self._loader


def _check_source(source: Batches, training: bool) -> None:
    name = "batches" if training else "validation"
    if isinstance(source, BatchSource):
        return
    if not isinstance(source, Iterable) or iter(source) is source:
        raise ValueError(
            f"{name} must be readable once an epoch (a list, a DataLoader or a "
            f"BatchSource), got {type(source).__name__}"
        )
    if not hasattr(source, "__len__") or (
        isinstance(source, DataLoader) and isinstance(source.dataset, IterableDataset)
    ):
        raise ValueError(
            f"{name} must have a length, got {type(source).__name__}; give an object "
            "with batches_per_epoch(ranks) and epoch(number, rank, ranks, start)"
        )


def _split_loader(
    loader: DataLoader[Any], rank: int, ranks: int, seed: int, training: bool
) -> DataLoader[Any]:
    """Build the DataLoader of one process, with its part of the samples."""
    shuffled = isinstance(loader.sampler, RandomSampler)
    known = shuffled or isinstance(loader.sampler, SequentialSampler)
    if not known or loader.batch_size is None:
        raise ValueError(
            "a DataLoader shared by several processes must use shuffle=True or False "
            f"and a batch_size, got the sampler {type(loader.sampler).__name__} and "
            f"batch_size {loader.batch_size}; give a BatchSource instead"
        )
    dataset = loader.dataset
    samples = len(dataset)  # type: ignore[arg-type]
    sampler: Iterable[int] = range(rank, samples, ranks)
    if training:
        sampler = DistributedSampler(
            dataset, ranks, rank, shuffle=shuffled, seed=seed, drop_last=True
        )
    return DataLoader(
        dataset,
        loader.batch_size,
        sampler=sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )
