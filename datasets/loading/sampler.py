"""The order of samples: batches of (epoch, index) for training and for testing.

The order of an epoch is a function of (seed, epoch) alone, so the number of workers and processes, the size of a batch
and the epoch at which a run resumes change nothing.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from datasets.loading.crops import Sample

Batch = list[Sample]


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order in which an epoch visits `size` samples: a permutation that depends on (seed, epoch) alone."""
    return np.random.default_rng((seed, epoch, 0)).permutation(size)


@dataclasses.dataclass(frozen=True)
class TrainBatchSampler:
    """The batches of the epochs first_epoch..num_epochs-1; the last batch of an epoch may be smaller.

    first_step: the number of batches of the first epoch that are skipped, as they are trained already. With several
    processes, each takes every num_ranks-th sample of a batch, starting at its rank.
    """

    size: int
    batch_size: int
    seed: int
    num_epochs: int
    first_epoch: int = 0
    first_step: int = 0
    rank: int = 0
    num_ranks: int = 1

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return -(-self.size // self.batch_size)

    def __len__(self) -> int:
        return self.per_epoch * (self.num_epochs - self.first_epoch) - self.first_step

    def __iter__(self) -> Iterator[Batch]:
        for epoch in range(self.first_epoch, self.num_epochs):
            order = epoch_order(self.seed, epoch, self.size).tolist()
            first = self.first_step if epoch == self.first_epoch else 0
            for start in range(first * self.batch_size, self.size, self.batch_size):
                indices = order[start : start + self.batch_size]
                yield [(epoch, index) for index in indices[self.rank :: self.num_ranks]]


def sequential_batches(indices: np.ndarray, batch_size: int) -> list[Batch]:
    """The samples `indices` in this order, for testing."""
    return [[(0, int(i)) for i in indices[start : start + batch_size]] for start in range(0, len(indices), batch_size)]


def largest_batch(batches: TrainBatchSampler | list[Batch]) -> int:
    """The number of samples in the largest batch."""
    if isinstance(batches, TrainBatchSampler):
        return -(-min(batches.batch_size, batches.size) // batches.num_ranks)
    return max(map(len, batches), default=0)
