"""The order of images in the batches of an epoch, on each of several ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowmode_fx.loading.draws import epoch_order
from lowmode_fx.utils.validation import as_count, as_flag, as_seed

__all__ = ["BatchOrder"]


@dataclass(frozen=True)
class BatchOrder:
    """The batches of a set of ``length`` images for one rank of ``world_size``.

    Ranks take images in turn, like torch's ``DistributedSampler``, so that all ranks' batches of a step together are
    those of one process with the larger batch. Every rank has the same number of batches, of the same sizes: with
    ``drop_last`` only full batches, leaving out different images each epoch; without it, the first images of the epoch
    are repeated if the ranks can't share evenly.

    Raises ``ValueError`` or ``TypeError`` for a value that is out of range, and if there would be no full batch.
    """

    length: int
    batch_size: int
    seed: int = 0
    shuffle: bool = False
    drop_last: bool = False
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        for name in ("length", "batch_size", "world_size"):
            as_count(name, getattr(self, name), 1)
        as_count("rank", self.rank)
        as_seed(self.seed)
        for name in ("shuffle", "drop_last"):
            as_flag(name, getattr(self, name))
        if self.rank >= self.world_size:
            raise ValueError(f"rank={self.rank} is out of range; give one below world_size={self.world_size}")
        if not len(self):
            where = f" on each of {self.world_size} ranks" if self.world_size > 1 else ""
            raise ValueError(
                f"batch_size={self.batch_size}{where} is more than the {self.length} images; give a smaller one, "
                "or drop_last=False"
            )

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        if self.drop_last:
            return self.length // (self.batch_size * self.world_size)
        return -(-self._share // self.batch_size)

    @property
    def _share(self) -> int:
        """Number of images per rank, before they are cut to full batches."""
        return -(-self.length // self.world_size)

    @property
    def images(self) -> int:
        """Number of images that a rank sees in an epoch."""
        return len(self) * self.batch_size if self.drop_last else self._share

    def indices(self, epoch: int) -> Tensor:
        """The rank's images in order, int64 (images,) on the CPU; each ``batch_size`` of them are a batch."""
        order = epoch_order(self.length, self.seed, epoch) if self.shuffle else torch.arange(self.length)
        wanted = self.images * self.world_size
        if wanted > self.length:
            order = order.repeat(-(-wanted // self.length))
        return order[self.rank : wanted : self.world_size]
