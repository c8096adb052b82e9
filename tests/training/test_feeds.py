from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    TensorDataset,
)

from geobiomass.training.sharding import BatchSource, Shard


def trainer(rank=0, ranks=1, epoch=0):
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(
        global_rank=rank, world_size=ranks, current_epoch=epoch, strategy=strategy
    )


def shard(source, training=True, seed=0, done=0, **place):
    return Shard(source, trainer(**place), seed, (lambda: done) if training else None)


def samples(batches) -> list[int]:
    return [int(value) for batch in batches for value in batch[0]]


def loader(size=23, **options) -> DataLoader:
    return DataLoader(TensorDataset(torch.arange(size)), batch_size=3, **options)


class Count:
    """A feed that tells what it was asked."""

    def batches_per_epoch(self, ranks):
        return 6 // ranks

    def epoch(self, number, rank, ranks, start=0):
        for batch in range(rank + start * ranks, 6, ranks):
            yield [torch.tensor([100 * number + batch])]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_list_is_dealt_out(ranks):
    batches = [[torch.tensor([i])] for i in range(7)]
    training = [shard(batches, rank=r, ranks=ranks) for r in range(ranks)]
    assert {len(s) for s in training} == {7 // ranks}
    seen = Counter(v for s in training for v in samples(s))
    assert seen == Counter(range(7 // ranks * ranks))
    validation = [shard(batches, False, rank=r, ranks=ranks) for r in range(ranks)]
    assert sum(len(s) for s in validation) == 7
    assert Counter(v for s in validation for v in samples(s)) == Counter(range(7))


def test_a_feed_is_asked_for_epoch_and_rank():
    assert isinstance(Count(), BatchSource)
    part = shard(Count(), rank=1, ranks=2, epoch=4)
    assert len(part) == 3
    assert samples(part) == [401, 403, 405]
    assert samples(shard(Count(), training=False, epoch=4)) == [0, 1, 2, 3, 4, 5]


def skip(source, done, **options) -> list[int]:
    """Return the batches of a shard, of an epoch with `done` finished batches."""
    first = list(shard(source, done=done, **options))
    assert first[:done] == [None] * done
    return samples(first[done:])


def loaders() -> list[DataLoader]:
    own = torch.Generator().manual_seed(3)
    return [
        loader(shuffle=True),
        loader(shuffle=False),
        loader(shuffle=True, generator=own),
        loader(sampler=RandomSampler(range(23), replacement=True)),
    ]


@pytest.mark.parametrize("done", [0, 1, 3, 5, 8])
@pytest.mark.parametrize("source", loaders())
def test_a_loader_drops_what_is_done(source, done):
    whole = samples(shard(source, epoch=2))
    assert skip(source, done, epoch=2) == whole[3 * done :]


class Once:
    """A batch that may be read, or must not."""

    def __init__(self, number, readable):
        self.number = number
        self.readable = readable

    def __iter__(self):
        assert self.readable, f"batch {self.number} was read"
        return iter([[self.number]])

    def __getitem__(self, place):
        assert self.readable, f"batch {self.number} was read"
        return [self.number]


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_list_and_a_feed_skip_what_is_done(ranks, done):
    for rank in range(ranks):
        place = {"rank": rank, "ranks": ranks}
        listed = [Once(i, i >= done * ranks) for i in range(7)]
        expected = [*range(rank, 7 // ranks * ranks, ranks)][done:]
        assert skip(listed, done, **place) == expected
        assert skip(Count(), done, **place) == [*range(rank, 6, ranks)][done:]


def test_a_feed_is_not_asked_for_batches_that_are_all_done():
    class Empty(Count):
        def epoch(self, number, rank, ranks, start=0):
            assert start < 6
            yield from super().epoch(number, rank, ranks, start)

    assert skip(Empty(), 6) == []


def test_the_epoch_is_read_at_the_first_batch():
    place = trainer(epoch=0)
    iterator = iter(Shard(Count(), place, 0, lambda: 0))
    place.current_epoch = 3
    assert samples([next(iterator)]) == [300]


# From Python 3.12 on, forking a loader's worker beside torch's threads warns.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_the_order_of_a_loader_follows_seed_and_epoch(workers):
    data = loader(shuffle=True, num_workers=workers)
    torch.manual_seed(1)
    first = samples(shard(data, epoch=2))
    torch.rand(100)
    assert samples(shard(data, epoch=2)) == first
    assert sorted(first) == list(range(23))
    assert samples(shard(data, epoch=1)) != first
    assert samples(shard(data, epoch=2, seed=1)) != first


def test_a_loader_with_its_own_generator_follows_them_too():
    data = loader(shuffle=True, generator=torch.Generator().manual_seed(3))
    first = samples(shard(data, epoch=2))
    samples(shard(data, epoch=5))
    assert samples(shard(data, epoch=2)) == first


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_loader_is_divided_between_processes(shuffle):
    parts = [
        samples(shard(loader(shuffle=shuffle), rank=rank, ranks=2, epoch=1))
        for rank in range(2)
    ]
    assert len(parts[0]) == len(parts[1]) == 11
    assert len(set(parts[0] + parts[1])) == 22
    again = samples(shard(loader(shuffle=shuffle), rank=0, ranks=2, epoch=2))
    assert (again != parts[0]) == shuffle
    validation = [
        samples(shard(loader(), False, rank=rank, ranks=2)) for rank in range(2)
    ]
    assert sorted(validation[0] + validation[1]) == list(range(23))


def test_a_loader_that_cannot_be_divided_is_refused():
    weights = torch.utils.data.WeightedRandomSampler([1.0] * 23, 23)
    with pytest.raises(ValueError, match="WeightedRandomSampler"):
        len(shard(loader(sampler=weights), rank=0, ranks=2))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(5))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((x for x in range(3)), "readable once an epoch.*generator"),
        (5, "readable once an epoch.*int"),
        (Stream(), "must have a length, got Stream"),
        (DataLoader(Stream()), "must have a length, got DataLoader"),
    ],
)
def test_sources_that_cannot_be_read_again_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        shard(source)


def test_a_feed_that_breaks_its_promise_is_named():
    class Short(Count):
        def batches_per_epoch(self, ranks):
            return 8

    with pytest.raises(ValueError, match=r"epoch 2 of Short.*8 batches.*got 6"):
        samples(shard(Short(), epoch=1))


def test_too_few_batches_for_the_processes_are_refused():
    with pytest.raises(ValueError, match="a batch for each of 2 processes"):
        len(shard([[torch.zeros(1)]], rank=0, ranks=2))
